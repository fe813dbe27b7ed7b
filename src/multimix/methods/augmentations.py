"""The operations of AugMix, on a whole batch: torchvision's functions, each called once for all images that need it.

torchvision's own transform draws from the global random state and treats one image at a time, or all alike.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ..extras import require

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TONAL = ("Posterize", "Solarize", "AutoContrast", "Equalize")
COLOUR = ("Brightness", "Color", "Contrast", "Sharpness")
BINS = 10


def augment_in_chains(
    images: Tensor, generator: torch.Generator, *, severity: int, depth: int | None, all_ops: bool
) -> Tensor:
    """Every one of the uint8 images (n, 1 or 3, height, width) after a random chain of operations of its own.

    `depth` operations each, or 1 to 3; the operation uniform, its magnitude one of the `severity` weakest of ten, its
    sign even. `generator` is on the host, so that all group sizes are known without a device synchronisation.
    """
    n = len(images)
    operations = GEOMETRIC + TONAL + (COLOUR if all_ops else ())
    draw = functools.partial(torch.randint, size=(n,), generator=generator, device="cpu")
    depths = draw(1, 4) if depth is None else torch.full((n,), depth, device="cpu")
    for step in range(depth or 3):
        operation = draw(len(operations))
        level = draw(severity)
        negative = draw(2)
        key = torch.where(depths > step, (operation * BINS + level) * 2 + negative, -1)
        key, order = key.sort(stable=True)
        keys, sizes = key.unique_consecutive(return_counts=True)
        groups = order.to(images.device, non_blocking=True).split(sizes.tolist())
        changed = images.clone()
        for code, group in zip(keys.tolist(), groups, strict=True):
            if code >= 0:
                name, bin_, sign = operations[code // 2 // BINS], code // 2 % BINS, -1 if code % 2 else 1
                changed[group] = apply(images[group], name, bin_, sign)
        images = changed
    return images


def apply(images: Tensor, name: str, level: int, sign: int) -> Tensor:
    """One operation at level 0 to 9 on uint8 images (n, 1 or 3, height, width), with AugMix's magnitudes.

    `sign` has no effect on the tonal operations.

    >>> image = torch.arange(4, dtype=torch.uint8).expand(1, 1, 4, 4)
    >>> apply(image, "TranslateX", 9, 1)[0, 0, 0]  # a third of the width, filled with black
    tensor([0, 0, 1, 2], dtype=torch.uint8)
    """
    v2 = require("torchvision.transforms.v2", "methods")
    f = v2.functional
    height, width = images.shape[-2:]
    # In float32 as torchvision has them: truncation to 8 bits shows the last digit.
    magnitude = functools.partial(torch.linspace, steps=BINS, device="cpu", dtype=torch.float32)
    slope, tone, angle = (sign * float(magnitude(0, most)[level]) for most in (0.3, 0.9, 30))
    shear = math.degrees(math.atan(slope))
    still = {"angle": 0.0, "scale": 1.0, "interpolation": v2.InterpolationMode.BILINEAR}
    result: Tensor
    match name:
        case "ShearX":
            result = f.affine(images, translate=[0, 0], shear=[shear, 0.0], center=[0.0, 0.0], **still)
        case "ShearY":
            result = f.affine(images, translate=[0, 0], shear=[0.0, shear], center=[0.0, 0.0], **still)
        case "TranslateX":  # a third of the width at level 9, rounded down
            result = f.affine(images, translate=[width * level // 27 * sign, 0], shear=[0.0, 0.0], **still)
        case "TranslateY":
            result = f.affine(images, translate=[0, height * level // 27 * sign], shear=[0.0, 0.0], **still)
        case "Rotate":
            result = f.rotate(images, angle, interpolation=v2.InterpolationMode.BILINEAR)
        case "Posterize":
            result = f.posterize(images, round(4 - 4 * level / (BINS - 1)))
        case "Solarize":
            result = f.solarize(images, 255 * float(magnitude(1, 0)[level]))
        case "AutoContrast":
            result = _autocontrast(images)
        case "Equalize":
            result = f.equalize(images)
        case "Brightness":
            result = f.adjust_brightness(images, 1 + tone)
        case "Color":
            result = f.adjust_saturation(images, 1 + tone)
        case "Contrast":
            result = f.adjust_contrast(images, 1 + tone)
        case "Sharpness":
            result = f.adjust_sharpness(images, 1 + tone)
        case _:
            raise ValueError(f"unknown operation {name!r}: expected one of {', '.join(GEOMETRIC + TONAL + COLOUR)}")
    return result


def _autocontrast(images: Tensor) -> Tensor:
    """As torchvision's, some versions of which ask the device which images are of one colour."""
    low, high = (end.float() for end in torch.aminmax(images.flatten(-2), dim=-1, keepdim=True))
    flat = high == low
    scale = ((high - low) * (1 / 255)).masked_fill(flat, 1)
    stretched = images.float() - low.masked_fill(flat, 0)[..., None]
    return stretched.div_(scale[..., None]).clamp_(0, 255).to(torch.uint8)
