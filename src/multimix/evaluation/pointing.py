"""The pointing game: does attention fall on the objects?

Zhang et al., Top-down Neural Attention by Excitation Backprop (ECCV 2016), and the energy-based form of Wang et al.,
Score-CAM (CVPR Workshops 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PointingGame", "pointing_game"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels; the first pixel covers 0 to 1."""

_TIE = 1e-9
"""Values that are equal differ by rounding after the upsampling, relative to the largest; float32 maps that differ at
all do so by more."""


class PointingGame(NamedTuple):
    """By image, float64; the first two of shape (N, *) for maps (*, h, w), the others (N,)."""

    hit: Tensor
    """1 where the maximum of the map lies in a box, else 0; where it is attained by several pixels, their share in
    boxes, which is what a random choice among them hits on average."""
    energy: Tensor
    """Share of the map's mass inside the boxes."""
    chance: Tensor
    """What a random pixel hits on average."""
    area: Tensor
    """Share of the image inside the boxes, which is the energy of a uniform map; `chance` without the tolerance."""
    center: Tensor
    """1 where the centre of the image is a hit."""


def pointing_game(
    maps: Sequence[Tensor] | Tensor,
    boxes: Sequence[Sequence[Box]],
    sizes: Sequence[tuple[int, int]],
    *,
    tolerance: float = 0.0,
) -> PointingGame:
    """Whether attention maps, upsampled to their images (bilinear), point into the boxes.

    Args:
        maps: for every image one map (h, w) of any resolution, or several, (*, h, w); non-negative, of positive sum.
        boxes: for every image one or more boxes (left, top, right, bottom) in its pixels; a hit is a hit in any.
        sizes: (height, width) of every image.
        tolerance: in pixels: a point at most this far from a box, by Euclidean distance, is a hit too; published
            numbers on Pascal VOC and COCO have 15. It does not touch the energy.

    Raises:
        ValueError: an image without boxes; a box without area or outside its image; a map that is no map; numbers that
            do not fit together.

    >>> peak = torch.tensor([[0.1, 0.7], [0.1, 0.1]])
    >>> game = pointing_game([peak], [[(4, 0, 8, 4)]], [(8, 8)])
    >>> game.hit.item(), game.center.item(), game.chance.item()
    (1.0, 1.0, 0.25)
    """
    if not len(maps) == len(boxes) == len(sizes) or not len(maps):
        raise ValueError(
            f"needs maps, boxes and a size for every image, got {len(maps)} maps, {len(boxes)} lists of boxes and "
            f"{len(sizes)} sizes"
        )
    if not tolerance >= 0:
        raise ValueError(f"tolerance is a distance in pixels, at least 0, got {tolerance}")
    rows = []
    for number, (image_maps, image_boxes, size) in enumerate(zip(maps, boxes, sizes, strict=True)):
        try:
            rows.append(_play(image_maps, image_boxes, size, tolerance))
        except ValueError as error:
            raise ValueError(f"image {number}: {error}") from None
    return PointingGame(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _play(maps: Tensor, boxes: Sequence[Box], size: tuple[int, int], tolerance: float) -> tuple[Tensor, ...]:
    height, width = size
    _check(maps, boxes, size)
    large = _upsample(maps.detach().double(), size)
    x = torch.arange(width, dtype=torch.float64, device=large.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=large.device) + 0.5
    inside = _near(x, y, boxes, 0.0)
    near = _near(x, y, boxes, tolerance) if tolerance else inside
    highest = large.amax(dim=(-2, -1), keepdim=True)
    at = (large >= highest * (1 - _TIE)).double()
    hit = (at * near).sum(dim=(-2, -1)) / at.sum(dim=(-2, -1))
    energy = (large * inside).sum(dim=(-2, -1)) / large.sum(dim=(-2, -1))
    center = _near(x.new_tensor([width / 2]), y.new_tensor([height / 2]), boxes, tolerance).double()[0, 0]
    return hit, energy, near.double().mean(), inside.double().mean(), center


def _near(x: Tensor, y: Tensor, boxes: Sequence[Box], tolerance: float) -> Tensor:
    """(len(y), len(x)) bool: which points are at most `tolerance` from a box."""
    near = torch.zeros(len(y), len(x), dtype=torch.bool, device=x.device)
    for left, top, right, bottom in boxes:
        dx = torch.maximum(left - x, x - right).clamp(min=0)
        dy = torch.maximum(top - y, y - bottom).clamp(min=0)
        near |= dx.square() + dy.square()[:, None] <= tolerance**2
    return near


def _upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    large = torch.nn.functional.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return large.reshape(*maps.shape[:-2], *size)


def _check(maps: Tensor, boxes: Sequence[Box], size: tuple[int, int]) -> None:
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"a size is (height, width) in pixels, got {tuple(size)}")
    if maps.ndim < 2 or not maps.numel() or not maps.is_floating_point():
        raise ValueError(
            f"maps must be floating point of shape (*, h, w), got {maps.dtype} of shape {tuple(maps.shape)}"
        )
    if maps.shape[-2] > height or maps.shape[-1] > width:
        raise ValueError(
            f"maps are upsampled, but one of {tuple(maps.shape[-2:])} positions is larger than its image of "
            f"{height} x {width} pixels (height x width): leave the image out"
        )
    if not bool((maps >= 0).all()) or not bool((maps.sum(dim=(-2, -1)) > 0).all()) or not bool(maps.isfinite().all()):
        raise ValueError("maps must be finite, non-negative and not all zero, as attention maps are")
    if not boxes:
        raise ValueError("it has no boxes: leave it out")
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"a box must have an area and lie in the image of {width} x {height} pixels, got left {left:g}, "
                f"top {top:g}, right {right:g}, bottom {bottom:g}"
            )
