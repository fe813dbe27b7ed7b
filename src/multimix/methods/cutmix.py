"""CutMix (Yun et al., ICCV 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .pairs import InputMethod, Pairing, check_positive, host, probabilities


class CutMix(InputMethod):
    """Paste a box of the partner's image; targets are mixed by the area that remains.

    The box has sides sqrt(1 - lambda) of the image's, lambda ~ Beta(alpha, alpha), its centre is uniform, and it is
    clipped at the border; lambda is then set to the true share of pixels kept. One box and one permutation
    per mini-batch, as in the authors' code. They apply it with probability 0.5 on CIFAR (`Either(CutMix(),
    Erm(), p=0.5)`) and 1 on ImageNet.

    Args:
        alpha: default 1.0, as in the authors' code.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = CutMix().mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if images.ndim != 4:
            raise ValueError(f"images must be (b, channels, height, width), got shape {tuple(images.shape)}")
        soft = probabilities(images, targets, num_classes)
        generator = host(generator)
        pairing = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        height, width = images.shape[-2:]
        top, bottom = _interval(height, pairing.lam, generator)
        left, right = _interval(width, pairing.lam, generator)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[pairing.partner, :, top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, pairing._replace(lam=kept).mix(soft)


def _interval(size: int, lam: float, generator: torch.Generator) -> tuple[int, int]:
    """One side of the box: its length before clipping is int(size sqrt(1 - lam))."""
    length = int(size * math.sqrt(1 - lam))
    centre = int(torch.randint(size, (), generator=generator))
    clip = lambda edge: min(max(edge, 0), size)  # noqa: E731
    return clip(centre - length // 2), clip(centre + length // 2)
