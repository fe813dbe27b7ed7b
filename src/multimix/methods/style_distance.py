"""How far apart the styles of two classes are: the automatic choice of StyleCutMix's gamma."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..functional._checks import check_targets
from .adain import StyleNetworks, prepare, statistics


@torch.no_grad()
def style_distances(
    networks: StyleNetworks, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int, *, resolution: int = 224
) -> Tensor:
    """Mean squared difference (c, c) between the mean styles of the classes, for `StyleCutMix(distances=...)`.

    The style of an image is the mean and the deviation of every channel after relu1_1, relu2_1, relu3_1 and relu4_1.

    Args:
        networks: from `multimix.methods.adain.load_networks`.
        batches: pairs of images (b, channels, h, w), pixels in [0, 1], and class indices (b,).
        num_classes: c.
        resolution: as in `StyleCutMix`.

    Raises:
        TypeError: labels are not class indices.
        ValueError: a class has no image, or labels do not fit.

    Save the result with `torch.save(distances, "styles.pt")`.
    """
    total, count = torch.zeros(num_classes, 0, device="cpu"), torch.zeros(num_classes, device="cpu")
    for images, labels in batches:
        if isinstance(labels, Tensor) and labels.is_floating_point():
            raise TypeError(
                f"labels must be class indices (b,), got {labels.dtype} of shape {tuple(labels.shape)}: the style of a "
                "class is that of its images alone, so give the labels from before any mixing"
            )
        check_targets(labels, images.shape[0], num_classes)
        styles = _styles(networks.encoder.to(images.device), prepare(images, resolution)).cpu()
        labels = labels.cpu().long()
        if not total.numel():
            total = torch.zeros(num_classes, styles.shape[1], device="cpu")
        total.index_add_(0, labels, styles)
        count += torch.bincount(labels, minlength=num_classes)
    missing = (count == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"no image of the classes {missing[:10]}: give images of all {num_classes} classes")
    means = (total / count[:, None]).double()
    return (torch.cdist(means, means) ** 2 / means.shape[1]).float()


def _styles(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """(b, 2 times the channels of all four layers)."""
    found, convolutions = [], 0
    for layer in encoder.children():
        pixels = layer(pixels)
        # In the encoder the 1st, 3rd, 5th and 9th 3x3 convolution begin a new resolution.
        if isinstance(layer, nn.ReLU):
            convolutions += 1
            if convolutions in (1, 3, 5, 9):
                found += [s.flatten(1) for s in statistics(pixels)]
    return torch.cat(found, dim=1)


def load_distances(path: Path | str, num_classes: int) -> Tensor:
    """The distances (c, c) in a file, 2 added on the diagonal: images of one class keep most of their own style.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no tensor of this shape.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no style distances {path}: make them with multimix.methods.style_distance")
    try:
        distances = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"the style distances {path} are damaged or hold more than a tensor") from error
    shape = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
    if shape != (num_classes, num_classes):
        raise ValueError(f"the style distances {path} must be of shape ({num_classes}, {num_classes}), got {shape}")
    return distances.float() + 2 * torch.eye(num_classes, device="cpu")
