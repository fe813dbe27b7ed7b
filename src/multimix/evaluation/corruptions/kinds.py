"""The fifteen corruptions, each a function of images (b, c, h, w) in [0, 1], its constants and a generator.

Results may leave [0, 1]; `corrupt` clips them.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Generator, Tensor

from ...extras import require
from . import filters


def gaussian_noise(x: Tensor, generator: Generator, sigma: float) -> Tensor:
    """x + sigma n, n standard normal in every value."""
    return x + sigma * torch.empty_like(x).normal_(generator=generator)


def shot_noise(x: Tensor, generator: Generator, photons: float) -> Tensor:
    """Poisson counts of `photons` x, divided by `photons`: mean x, variance x / photons."""
    return torch.poisson(x * photons, generator=generator) / photons


def impulse_noise(x: Tensor, generator: Generator, amount: float) -> Tensor:
    """A share `amount` of the values becomes 0 or 1, half of them each."""
    u = torch.empty_like(x).uniform_(generator=generator)
    return torch.where(u < amount / 2, 0.0, torch.where(u >= 1 - amount / 2, 1.0, x))


def defocus_blur(x: Tensor, generator: Generator, radius: float, alias_sigma: float) -> Tensor:
    """Convolved with a disk."""
    return filters.convolve(x, filters.disk(radius, alias_sigma, like=x))


def glass_blur(x: Tensor, generator: Generator, sigma: float, reach: float, rounds: float) -> Tensor:
    """Blurred; pixels replaced by random neighbours up to `reach` away; blurred again.

    The programs behind the data sets mean to swap each pixel with its neighbour, from the last to the first. But what
    they swap are views of one array, so that the neighbour is copied and nothing comes back; and so it is here.
    """
    b, c, h, w = x.shape
    reach, pixels = int(reach), h * w
    at = torch.arange(pixels, device=x.device)
    row, column = at // w, at % w
    replaced = (row > reach) & (row <= h - reach) & (column > reach) & (column <= w - reach)
    order = at.expand(b, pixels)
    for _ in range(int(rounds)):
        down, right = (
            torch.randint(-reach, reach, (b, pixels), generator=generator, device=x.device) for _ in range(2)
        )
        source = torch.where(replaced, at + down * w + right, at)
        # A neighbour that had its turn before, which later pixels have, is copied as it is now: results are numbered
        # 0..pixels - 1, what was there before the round from `pixels` on, and pointers followed until all lead there.
        follow = torch.where(replaced[source] & (source > at), source, source + pixels)
        follow = torch.cat([follow, (at + pixels).expand(b, pixels)], dim=1)
        while bool((follow < pixels).any()):
            follow = follow.gather(1, follow)
        order = order.gather(1, follow[:, :pixels] - pixels)
    shuffled = filters.gaussian_blur(x, sigma).flatten(2).gather(2, order[:, None].expand(b, c, pixels)).view_as(x)
    return filters.gaussian_blur(shuffled, sigma)


def motion_blur(x: Tensor, generator: Generator, radius: float, sigma: float) -> Tensor:
    """Smeared in a random direction within 45 degrees of the horizontal."""
    return filters.motion_blur(x, radius, sigma, _angles(x, -45, 45, generator))


def zoom_blur(x: Tensor, generator: Generator, step: float, count: float) -> Tensor:
    """The mean of the image and its enlargements by 1, 1 + step, ..., `count` of them."""
    total = x.clone()
    for k in range(int(count)):
        total += filters.clipped_zoom(x, 1 + k * step)
    return total / (int(count) + 1)


def snow(
    x: Tensor,
    generator: Generator,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    keep: float,
) -> Tensor:
    """A brighter, greyer image under falling flakes."""
    flakes = mean + std * torch.empty_like(x[:, :1]).normal_(generator=generator)
    flakes = filters.clipped_zoom(flakes, zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = filters.motion_blur(flakes, radius, sigma, _angles(x, -135, -45, generator))
    luma = x.new_tensor([0.299, 0.587, 0.114] if x.shape[1] == 3 else [1.0])
    grey = (x * luma.view(-1, 1, 1)).sum(dim=1, keepdim=True)
    whitened = keep * x + (1 - keep) * torch.maximum(x, grey * 1.5 + 0.5)
    return whitened + flakes + flakes.flip(-2, -1)


def frost(x: Tensor, generator: Generator, keep: float, weight: float) -> Tensor:
    """keep x + weight ice. The data sets use photographs of frosted glass; here the ice is drawn: bright veins, where a
    plasma fractal crosses its middle, on a cloudy ground, slightly blue."""
    b, c, h, w = x.shape
    veins, clouds = (filters.plasma(b, max(h, w), decay, x, generator)[:, None, :h, :w] for decay in (1.6, 2.0))
    ice = 0.7 * (1 - (2 * veins - 1).abs()) ** 3 + 0.3 * clouds
    tint = x.new_tensor([0.85, 0.95, 1.0] if c == 3 else [0.93])
    return keep * x + weight * (ice * tint.view(-1, 1, 1))


def fog(x: Tensor, generator: Generator, weight: float, decay: float) -> Tensor:
    """A plasma fractal added, and the sum scaled back to the brightest value of the image."""
    h, w = x.shape[-2:]
    brightest = x.amax(dim=(1, 2, 3), keepdim=True)
    haze = filters.plasma(len(x), max(h, w), decay, x, generator)[:, None, :h, :w]
    return (x + weight * haze) * brightest / (brightest + weight)


def brightness(x: Tensor, generator: Generator, amount: float) -> Tensor:
    """The value V = max(R, G, B) of every pixel raised by `amount`, at most to 1; hue and saturation stay."""
    value = x.amax(dim=1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * (raised / value.clamp_min(1e-12)), raised)


def contrast(x: Tensor, generator: Generator, factor: float) -> Tensor:
    """Every channel drawn towards its mean: mean + factor (x - mean)."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + factor * (x - mean)


def elastic_transform(x: Tensor, generator: Generator, length: float, sigma: float, jitter: float) -> Tensor:
    """A random affine map, then displacements that vary smoothly; constants are fractions of the side.

    The affine map moves three corners of a central square by up to `jitter` each. The displacement is uniform noise,
    blurred by `sigma` and multiplied by `length`.
    """
    b, _, h, w = x.shape
    side, half = min(h, w), min(h, w) // 3
    x0, y0 = w // 2, h // 2
    corners = x.new_tensor([[x0 + half, y0 + half], [x0 + half, y0 - half], [x0 - half, y0 - half]])
    shift = torch.empty(b, 3, 2, device=x.device, dtype=x.dtype)
    moved = corners + shift.uniform_(-jitter * side, jitter * side, generator=generator)
    # Pixels of the result are looked up in the image, so the map goes from the moved corners to the original ones.
    back = torch.linalg.solve(torch.cat([moved, torch.ones_like(moved[..., :1])], dim=-1), corners.expand(b, 3, 2))
    rows, columns = torch.meshgrid(*(torch.arange(n, device=x.device, dtype=x.dtype) for n in (h, w)), indexing="ij")
    source = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).view(1, h * w, 3) @ back
    source_x, source_y = source.view(b, h, w, 2).unbind(-1)
    x = filters.sample(x, source_x, source_y, edge="reflect")
    noise = torch.empty(b, 2, h, w, device=x.device, dtype=x.dtype).uniform_(-1, 1, generator=generator)
    right, down = (length * side * filters.gaussian_blur(noise, sigma * side, truncate=3, edge="symmetric")).unbind(1)
    return filters.sample(x, columns + right, rows + down, edge="symmetric")


def pixelate(x: Tensor, generator: Generator, factor: float) -> Tensor:
    """Made smaller by `factor` with a box filter, and as large as before."""
    rows, columns = (
        filters.box_matrix(int(n * factor), n, like=x) @ filters.box_matrix(n, int(n * factor), like=x)
        for n in x.shape[-2:]
    )
    return filters.along_both(x, rows, columns)


def jpeg_compression(x: Tensor, generator: Generator, quality: float) -> Tensor:
    """Through a JPEG file of this quality, by Pillow, image after image on the CPU."""
    pillow, numpy = require("PIL.Image", "train"), require("numpy", "train")
    pixels = (x * 255).round().byte().movedim(1, -1).cpu().numpy()
    decoded = [numpy.asarray(_through_jpeg(pillow, image, int(quality))) for image in pixels]
    result = torch.from_numpy(numpy.stack(decoded)).to(x.device)
    return (result[:, None] if result.ndim == 3 else result.movedim(-1, 1)).to(x.dtype) / 255


def _through_jpeg(pillow: Any, image: Any, quality: int) -> Any:
    file = io.BytesIO()
    pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "JPEG", quality=quality)
    return pillow.open(file)


def _angles(x: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    return torch.empty(len(x), device=x.device).uniform_(low, high, generator=generator)
