"""Random crops and flips of whole batches of small images, by index arithmetic on the device they live on.

Legend: N examples of an epoch, B batch, C channels, S image side.

What is drawn is kept apart from what is done with it: the draws of an epoch are one small integer table with a
row for each example, made on the CPU, so that they are the same on every device, for every batch size and for
every number of ranks.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as nnf

__all__ = ["FOR_FILES", "Augment", "apply", "check_augment", "draw", "padding"]

Augment = Literal["none", "crop", "crop-flip", "random-resized-crop", "random-resized-crop-color"]

FOR_FILES: tuple[Augment, ...] = ("random-resized-crop-color",)
"""Those of which there is no version for whole batches of decoded images."""

# The scale and aspect ratio of ImageNet training crops (Szegedy et al., 2015), torchvision's defaults.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10


def check_augment(augment: str) -> None:
    """Refuse a name that is no augmentation."""
    if augment not in get_args(Augment):
        raise ValueError(f"augment must be one of {', '.join(get_args(Augment))}, got {augment!r}")


def padding(size: int) -> int:
    """Black pixels around an image before a shifted crop: 4 for sides of 32 and 64, as is usual for CIFAR and
    TinyImageNet; an eighth of smaller sides, a sixteenth of larger ones."""
    return min(size // 8, max(4, size // 16))


def draw(augment: Augment, count: int, size: int, generator: torch.Generator) -> Tensor:
    """The random choices for `count` images of side `size`: int64, one row for each image.

    Rows are (top, left, flip) for the shifted crops, in pixels of the padded image, (top, left, height, width,
    flip) for random-resized-crop, and empty for none.

    >>> draw("crop-flip", 5, 32, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3])
    """
    if augment == "none":
        return torch.empty(count, 0, dtype=torch.int64, device="cpu")
    flips = torch.randint(0, 2, (count, 1), generator=generator, device="cpu")
    if augment == "random-resized-crop":
        return torch.cat([_draw_boxes(count, size, generator), flips], dim=1)
    shifts = torch.randint(0, 2 * padding(size) + 1, (count, 2), generator=generator, device="cpu")
    return torch.cat([shifts, flips if augment == "crop-flip" else torch.zeros_like(flips)], dim=1)


def apply(augment: Augment, images: Tensor, draws: Tensor) -> Tensor:
    """Augment uint8 images (B, C, S, S) as `draws` (B, k) says, on their device: float32 (B, C, S, S) in [0, 1].

    >>> images = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    >>> apply("crop", images, torch.tensor([[0, 1, 0]]))[0, 0, :2]
    tensor([[0., 0., 0., 0., 0., 0., 0., 0.],
            [1., 1., 1., 1., 1., 1., 1., 1.]])
    """
    if augment == "none":
        return to_float(images)
    if augment == "random-resized-crop":
        return _resized_crop(to_float(images), draws)
    return to_float(_shifted_crop(images, draws))


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels to float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def _shifted_crop(images: Tensor, draws: Tensor) -> Tensor:
    batch, channels, size, _ = images.shape
    margin = padding(size)
    padded = nnf.pad(images, (margin, margin, margin, margin))
    rows_BS, columns_BS = _flipped_range(size, draws[:, 2])
    rows_BS, columns_BS = rows_BS + draws[:, :1], columns_BS + draws[:, 1:2]
    # One gather over flattened pixels is about four times as fast as indexing with four index tensors.
    pixels = rows_BS[:, :, None] * (size + 2 * margin) + columns_BS[:, None, :]
    pixels = pixels.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixels).view(batch, channels, size, size)


def _resized_crop(images: Tensor, draws: Tensor) -> Tensor:
    """Bilinear resizing of each box to the full side. A crop is never larger than the image, so this never
    shrinks, and no antialiasing is needed."""
    size = images.shape[-1]
    top, left, height, width = (draws[:, i : i + 1].float() for i in range(4))
    rows_BS, columns_BS = _flipped_range(size, draws[:, 4])
    # Sampling points stay inside the box: the border of the crop repeats, and pixels outside do not bleed in.
    y_BS = top + ((rows_BS + 0.5) * height / size - 0.5).clamp(min=0).minimum(height - 1)
    x_BS = left + ((columns_BS + 0.5) * width / size - 0.5).clamp(min=0).minimum(width - 1)
    grid = torch.stack(torch.broadcast_tensors(x_BS[:, None, :], y_BS[:, :, None]), dim=-1)
    return nnf.grid_sample(images, (2 * grid + 1) / size - 1, padding_mode="border", align_corners=False)


def _flipped_range(size: int, flips: Tensor) -> tuple[Tensor, Tensor]:
    """0..S-1 for rows, and for columns with those of flipped images reversed: (1, S) and (B, S)."""
    indices = torch.arange(size, device=flips.device)
    return indices[None], torch.where(flips[:, None].bool(), size - 1 - indices, indices)


def _draw_boxes(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Boxes (top, left, height, width) as torchvision's RandomResizedCrop draws them: up to ten attempts at an
    area and an aspect ratio that fit, else the whole image."""
    shape = (count, ATTEMPTS)
    area = torch.empty(shape, device="cpu").uniform_(*AREA, generator=generator) * size * size
    low, high = (math.log(ratio) for ratio in RATIO)
    ratio = torch.empty(shape, device="cpu").uniform_(low, high, generator=generator).exp()
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width >= 1) & (width <= size) & (height >= 1) & (height <= size)
    first = fits.int().argmax(dim=1, keepdim=True)
    whole = ~fits.any(dim=1, keepdim=True)
    height, width = (side.gather(1, first).masked_fill(whole, size) for side in (height, width))
    free = size + 1 - torch.cat([height, width], dim=1)
    corner = (torch.rand((count, 2), generator=generator, device="cpu") * free).floor().minimum(free - 1)
    return torch.cat([corner, height, width], dim=1).to(torch.int64)
