"""A surrogate of a classifier, learnt from its answers alone: its adversarial images are tried on the original."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import random
from ..functional._checks import mixing_dtype
from ..models import SplitModel, build
from .attacks import Classifier, attacking, check_images


def distil(
    model: Classifier,
    images: Tensor,
    *,
    steps: int = 300,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> SplitModel:
    """A small network trained to predict as `model` does (a black-box substitute: Papernot et al., AsiaCCS 2017).

    Args:
        model: maps pixels in [0, 1] to logits (b, c).
        images: (N, channels, size, size) floating point, in [0, 1], other than those to attack; no labels are needed.
        steps: of Adam.
        batch_size: images in a step.
        generator: for the initial weights and the order; the global RNG is not used.

    Returns:
        The surrogate, in evaluation mode, on the device of `images`; in float64 for images in that, else in float32.

    Raises:
        TypeError, ValueError: images that are not floating-point pixels in [0, 1].

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    >>> distil(net, torch.rand(20, 1, 8, 8), steps=2)(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 3])
    """
    check_images(images)
    draws = random.fork(generator, "cpu")
    with torch.no_grad(), attacking(model, images.device):
        answers = torch.cat([model(batch).softmax(dim=1) for batch in images.split(batch_size)])
    spread = images.std(dim=(0, 2, 3), correction=0).clamp_min(1e-3)
    # What is made in inference mode cannot be trained.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        student = build(
            "smallnet",
            num_classes=answers.shape[1],
            image_size=images.shape[-1],
            mean=images.mean(dim=(0, 2, 3)).tolist(),
            std=spread.tolist(),
            generator=draws,
        ).to(images.device, mixing_dtype(images.dtype))
        optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
        for _ in range(steps):
            batch = torch.randint(len(images), (batch_size,), generator=draws, device="cpu").to(images.device)
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(images[batch]), answers[batch]).backward()
            optimizer.step()
    return student.eval()
