"""Common corruptions in the style of CIFAR-10-C and ImageNet-C, made on the fly.

Fifteen types in five severities, after Hendrycks and Dietterich (ICLR 2019) and with their constants. These are not
the published files: random draws differ, the frost is drawn instead of photographed, and images are not rounded to
bytes between the steps. So error rates compare among models corrupted by this package, not with published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ... import random
from ...functional._checks import check_tensor
from . import kinds
from .constants import CONSTANTS, ConstantsOf, constants_for

__all__ = ["CORRUPTIONS", "corrupt"]

_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "gaussian_noise": kinds.gaussian_noise,
    "shot_noise": kinds.shot_noise,
    "impulse_noise": kinds.impulse_noise,
    "defocus_blur": kinds.defocus_blur,
    "glass_blur": kinds.glass_blur,
    "motion_blur": kinds.motion_blur,
    "zoom_blur": kinds.zoom_blur,
    "snow": kinds.snow,
    "frost": kinds.frost,
    "fog": kinds.fog,
    "brightness": kinds.brightness,
    "contrast": kinds.contrast,
    "elastic_transform": kinds.elastic_transform,
    "pixelate": kinds.pixelate,
    "jpeg_compression": kinds.jpeg_compression,
}

CORRUPTIONS = tuple(_FUNCTIONS)
"""The names of the fifteen types, as the files of CIFAR-10-C are called, noise, blur, weather, digital in turn."""

SMALLEST = 8
"""Pixels on a side; smaller images leave nothing to blur or warp."""


@torch.no_grad()
def corrupt(
    images: Tensor,
    corruption: str,
    severity: int,
    *,
    generator: torch.Generator | None = None,
    constants: ConstantsOf | None = None,
) -> Tensor:
    """Corrupt images.

    Args:
        images: (b, 1 or 3, height, width), uint8 or floating point in [0, 1], sides of at least 8 pixels.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        generator: for noise, directions, flakes, clouds and warps; the global RNG is not used.
        constants: of "cifar", "tinyimagenet" or "imagenet", made for images of 32, 64 and 224 pixels; default: those
            nearest to the size of `images`. Their lengths are pixels, and are not scaled to other sizes.

    Returns:
        Corrupted images of the shape and type of `images`, in [0, 1] or 0..255.

    Raises:
        ValueError: an unknown corruption or set of constants, a severity outside 1..5, or images of another shape or
            range.

    >>> images = torch.full((2, 3, 32, 32), 0.25)
    >>> corrupt(images, "brightness", 5).unique()
    tensor([0.5500])
    """
    if corruption not in _FUNCTIONS:
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}, got {corruption!r}")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")
    if constants is not None and constants not in CONSTANTS:
        raise ValueError(f"constants must be one of {', '.join(CONSTANTS)}, got {constants!r}")
    # Draws are made in the order of memory, which channels last would change.
    x = _as_float(images).contiguous()
    b, _, h, w = images.shape
    if not b:
        return images.clone()
    values = CONSTANTS[constants or constants_for(h, w)][corruption][severity - 1]
    # Autocast would round the positions that a warp looks up, and the pixels that a blur adds up.
    with torch.autocast(x.device.type, enabled=False):
        x = _FUNCTIONS[corruption](x, random.fork(generator, x.device), *values).clamp(0, 1)
    return (x * 255).round().byte() if images.dtype == torch.uint8 else x.to(images.dtype)


def _as_float(images: Tensor) -> Tensor:
    check_tensor("images", images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < SMALLEST:
        raise ValueError(
            f"images must be (b, 1 or 3, height, width) with sides of at least {SMALLEST} pixels, got "
            f"{tuple(images.shape)}"
        )
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8, or floating-point pixels in [0, 1], got {images.dtype}")
    if images.numel():
        low, high = torch.stack(images.aminmax()).tolist()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"floating-point images must lie in [0, 1], got values from {low:.4g} to {high:.4g}: divide bytes by "
                "255, and leave the normalisation to the model"
            )
    return images.float()
