"""What the corruptions are made of: blurs, zooms and warps of whole batches.

b images, c channels, h x w pixels. A blur or resize that treats rows and columns alike is one n x n matrix M for each
side, and its result M_h x M_w'.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Edge = Literal["nearest", "symmetric", "reflect"]
"""What lies beyond the edge of (a b c): a a | a b c, or b a | a b c, or c b | a b c."""


def wrap(index: Tensor, n: int, edge: Edge) -> Tensor:
    """The pixel 0..n-1 that stands at `index`, which may lie far outside.

    >>> wrap(torch.arange(-3, 3), 3, "symmetric"), wrap(torch.arange(-3, 3), 3, "reflect")
    (tensor([2, 1, 0, 0, 1, 2]), tensor([1, 2, 1, 0, 1, 2]))
    """
    if edge == "nearest" or n == 1:
        return index.clamp(0, n - 1)
    period = 2 * n if edge == "symmetric" else 2 * n - 2
    index = index % period
    return torch.where(index < n, index, period - index - int(edge == "symmetric"))


def along_both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """M_h x M_w' for images (..., h, w)."""
    return rows @ x @ columns.T


def gaussian_matrix(n: int, sigma: float, *, truncate: float, edge: Edge, like: Tensor) -> Tensor:
    """The blur of a line of n pixels by a Gaussian that ends at `truncate` sigma, as scipy.ndimage has it: (n, n)."""
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    weights = torch.exp(-(offsets.double() ** 2) / (2 * max(sigma, 1e-9) ** 2))
    at = wrap(torch.arange(n, device=like.device)[:, None] + offsets, n, edge)
    matrix = torch.zeros(n, n, dtype=torch.double, device=like.device)
    return matrix.scatter_add_(1, at, (weights / weights.sum()).expand(n, -1)).to(like.dtype)


def gaussian_blur(x: Tensor, sigma: float, *, truncate: float = 4, edge: Edge = "nearest") -> Tensor:
    """A Gaussian blur of images (..., h, w)."""
    rows, columns = (gaussian_matrix(n, sigma, truncate=truncate, edge=edge, like=x) for n in x.shape[-2:])
    return along_both(x, rows, columns)


def box_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """The resize of a line of pixels by Pillow's BOX filter, (target, source): the mean of the pixels whose centres
    lie in the box of a target pixel, which is never narrower than one pixel."""
    scale = source / target
    centres = (torch.arange(target, device=like.device).double() + 0.5) * scale
    offsets = (torch.arange(source, device=like.device).double() + 0.5 - centres[:, None]) / max(scale, 1.0)
    inside = ((offsets > -0.5) & (offsets <= 0.5)).double()
    return (inside / inside.sum(dim=1, keepdim=True)).to(like.dtype)


def disk(radius: float, alias_sigma: float, like: Tensor) -> Tensor:
    """The kernel of an unfocused lens: a disk, softened by a small Gaussian, (k, k)."""
    reach, taps = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    line = torch.arange(-reach, reach + 1, device=like.device).double()
    kernel = (line[:, None] ** 2 + line**2 <= radius**2).double()
    # Three or five taps, as many as its truncation leaves.
    blurred = gaussian_blur(kernel / kernel.sum(), alias_sigma, truncate=(taps // 2) / alias_sigma, edge="reflect")
    return blurred.to(like.dtype)


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Images (b, c, h, w) with one symmetric kernel of odd sides; beyond the edge they are reflected."""
    reach = kernel.shape[-1] // 2
    for dim in (-2, -1):
        n = x.shape[dim]
        x = x.index_select(dim, wrap(torch.arange(-reach, n + reach, device=x.device), n, "reflect"))
    b, c, h, w = x.shape
    return F.conv2d(x.reshape(b * c, 1, h, w), kernel[None, None]).reshape(b, c, h - 2 * reach, w - 2 * reach)


def motion_blur(x: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """ImageMagick's motion blur: half a Gaussian along a line from every pixel, `degrees` (b,) an angle per image."""
    b, c, h, w = x.shape
    weights = torch.exp(-(torch.arange(2 * int(radius) + 1, device="cpu").double() ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    angles = torch.deg2rad(degrees.double())
    total = torch.zeros_like(x)
    # The taps that are left out weigh less than a hundredth of a grey level.
    for tap, weight in enumerate(weight for weight in weights.tolist() if weight > 1e-5):
        down, right = (torch.ceil(tap * f(angles) - 0.5).long()[:, None] for f in (torch.sin, torch.cos))
        at = (rows + down).clamp(0, h - 1)[:, :, None] * w + (columns + right).clamp(0, w - 1)[:, None, :]
        total += weight * x.flatten(2).gather(2, at.view(b, 1, h * w).expand(b, c, h * w)).view_as(x)
    return total


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """The centre of images (b, c, h, w), enlarged by `factor` >= 1 with linear interpolation, of the same size."""
    sizes = x.shape[-2:]
    kept = [math.ceil(n / factor) for n in sizes]
    top, left = ((n - k) // 2 for n, k in zip(sizes, kept, strict=True))
    target = [round(k * factor) for k in kept]
    crop = x[..., top : top + kept[0], left : left + kept[1]]
    zoomed = F.interpolate(crop, size=target, mode="bilinear", align_corners=True)
    top, left = ((t - n) // 2 for n, t in zip(sizes, target, strict=True))
    return zoomed[..., top : top + sizes[0], left : left + sizes[1]]


def sample(x: Tensor, columns: Tensor, rows: Tensor, edge: Literal["symmetric", "reflect"]) -> Tensor:
    """Images (b, c, h, w) at the positions `columns`, `rows` (b, h, w), in pixels, with linear interpolation."""
    h, w = x.shape[-2:]
    if edge == "reflect":
        grid = torch.stack([2 * columns / (w - 1) - 1, 2 * rows / (h - 1) - 1], dim=-1)
    else:
        grid = torch.stack([(2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1], dim=-1)
    return F.grid_sample(x, grid.to(x.dtype), padding_mode="reflection", align_corners=edge == "reflect")


def plasma(count: int, size: int, decay: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Cloud-like fields in [0, 1], (count, size, size), by the diamond-square algorithm; a larger `decay` of the
    random displacement from one scale to the next makes them smoother."""
    side = 2 ** math.ceil(math.log2(size))
    field = torch.zeros(count, side, side, device=like.device, dtype=like.dtype)
    step, wobble = side, 100.0

    def displaced(total: Tensor) -> Tensor:
        noise = torch.empty_like(total).uniform_(-wobble, wobble, generator=generator)
        return total / 4 + wobble * noise

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        squares = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = displaced(squares + squares.roll(-1, 2))
        centres, corners = field[:, half::step, half::step], field[:, ::step, ::step]
        field[:, ::step, half::step] = displaced(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        field[:, half::step, ::step] = displaced(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wobble = half, wobble / decay
    field -= field.amin(dim=(1, 2), keepdim=True)
    return (field / field.amax(dim=(1, 2), keepdim=True))[:, :size, :size]
