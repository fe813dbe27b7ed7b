"""FMix (Harris et al., 2020): masks sampled in Fourier space."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._checks import check_images, check_positive
from .pairs import InputMethod, Pairing, host, probabilities


class FMix(InputMethod):
    """Mix two images with a binary mask of any shape: the brightest lambda of the pixels of a low-frequency image.

    One mask, one lambda ~ Beta(alpha, alpha) and one permutation per mini-batch, as in the authors' code. Targets are
    mixed by the share of pixels that is 1 in the mask: lambda, rounded to a whole number of pixels.

    Args:
        alpha: default 1.0, as in the authors' code.
        decay: power by which the amplitude falls with the frequency; larger gives smoother regions.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = FMix().mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def __init__(self, alpha: float = 1.0, *, decay: float = 3.0) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)
        self.decay = check_positive("decay", decay)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        check_images(images)
        soft = probabilities(images, targets, num_classes)
        generator = host(generator)
        pairing = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        height, width = images.shape[-2:]
        size = height * width
        kept = round(pairing.lam * size)
        mask = top_pixels(low_frequency_image(height, width, self.decay, generator), kept)
        mask = mask.to(images.device, non_blocking=True)
        mixed = torch.where(mask, images, images[pairing.partner])
        return mixed, pairing._replace(lam=kept / size).mix(soft)


def low_frequency_image(height: int, width: int, decay: float, generator: torch.Generator) -> Tensor:
    """A random real image (height, width): the inverse Fourier transform of complex normal coefficients of amplitude
    (f0 / max(f, f0)) ** decay at frequency f, in cycles per pixel, where f0 = 1 / max(height, width). Up to a factor
    this is the authors' f ** -decay, which overflows at a large decay.

    >>> low_frequency_image(32, 24, 3.0, torch.Generator().manual_seed(0)).shape
    torch.Size([32, 24])
    """
    there = {"device": "cpu", "dtype": torch.float32}  # whatever the defaults: complex numbers come in few types
    frequency = torch.hypot(torch.fft.fftfreq(height, **there)[:, None], torch.fft.rfftfreq(width, **there))
    noise = torch.randn(*frequency.shape, 2, generator=generator, device="cpu", dtype=frequency.dtype)
    lowest = 1 / max(height, width)
    amplitude = (lowest / frequency.clamp(min=lowest)) ** decay
    image: Tensor = torch.fft.irfft2(torch.view_as_complex(noise) * amplitude, s=(height, width))
    return image


def top_pixels(image: Tensor, count: int) -> Tensor:
    """True at the `count` largest values of an image (height, width), exactly, whatever the ties.

    >>> top_pixels(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), 2).sum()
    tensor(2)
    """
    mask = torch.zeros(image.numel(), dtype=torch.bool, device=image.device)
    mask[image.flatten().topk(count).indices] = True
    return mask.view_as(image)
