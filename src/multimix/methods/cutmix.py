"""CutMix (Yun et al., ICCV 2019)."""

from __future__ import annotations

import math
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional._checks import check_images, check_positive
from .pairs import InputMethod, Pairing, host, probabilities


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
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        check_images(images)
        soft = probabilities(images, targets, num_classes)
        mixed, partner, box = self.paste(images, host(generator))
        return mixed, Pairing(1 - box.share(images), partner).mix(soft)

    def paste(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Box]:
        """Mixed images, the partner (b,) of every image, and the box that came from it."""
        check_images(images)
        lam, partner = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        height, width = images.shape[-2:]
        box = Box(*_interval(height, lam, generator), *_interval(width, lam, generator))
        mixed = images.clone()
        mixed[box.pixels] = images[partner][box.pixels]
        return mixed, partner, box


class Box(NamedTuple):
    """Rows and columns of a rectangle of pixels, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def pixels(self) -> tuple[EllipsisType, slice, slice]:
        """Index of its pixels in images (..., h, w)."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)

    def share(self, images: Tensor) -> float:
        """Its share of the area of images (..., h, w)."""
        return (self.bottom - self.top) * (self.right - self.left) / (images.shape[-2] * images.shape[-1])

    def mask(self, images: Tensor) -> Tensor:
        """(h, w), 1 inside and 0 outside, on the device of images (..., h, w)."""
        mask = torch.zeros(images.shape[-2:], device=images.device)
        mask[self.pixels] = 1
        return mask


def _interval(size: int, lam: float, generator: torch.Generator) -> tuple[int, int]:
    """One side of the box: int(size sqrt(1 - lam)) pixels, less one where that is odd, before clipping."""
    length = int(size * math.sqrt(1 - lam))
    centre = int(torch.randint(size, (), generator=generator, device="cpu"))
    clip = lambda edge: min(max(edge, 0), size)  # noqa: E731
    return clip(centre - length // 2), clip(centre + length // 2)
