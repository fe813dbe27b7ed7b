"""OptTransMix (Zhu et al., ECCV 2020): move the content of one image into the other's, rather than fade it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..functional._checks import check_count, check_images, check_pixels, check_positive
from .pairs import InputMethod, Pairing, host, probabilities
from .wasserstein import check_reg, convolutional_barycenter


class OptTransMix(InputMethod):
    """The Wasserstein barycenter of two images with weights lambda and 1 - lambda; targets are mixed with the same.

    Made for images with a clean background, where pixel values are mass: every channel is normalised to sum 1, the
    barycenter is taken under entropic regularisation, and scaled to lambda times the mass of the one image plus
    1 - lambda times that of the other. A channel without mass in one image takes the shape of the other's.
    There is no public code; lambda ~ Beta(alpha, alpha) once per mini-batch, channels apart, and the options' defaults
    are our reading.

    Args:
        alpha: default 1.0.
        background: "dark": the background is 0, and mass is the pixel's value. "light": it is 1, and mass is what is
            missing from 1.
        reg: entropic regularisation, relative to the squared longer side; it blurs by sqrt(reg / 2) of that side. At
            least 1/650.
        iterations: of the barycenter's algorithm.
        debiased: barycenters of Sinkhorn divergences, which are not blurred; about a third more work.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = OptTransMix().mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        background: Literal["dark", "light"] = "dark",
        reg: float = 0.002,
        iterations: int = 20,
        debiased: bool = False,
    ) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)
        if background not in ("dark", "light"):
            raise ValueError(f"background must be 'dark' or 'light', got {background!r}")
        self.light = background == "light"
        self.reg = check_reg(reg)
        self.iterations = check_count("iterations", iterations)
        self.debiased = debiased

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `InputMethod.mix`, with pixels in [0, 1]; values outside are cut off."""
        check_images(images)
        check_pixels(images)
        soft = probabilities(images, targets, num_classes)
        pairing = Pairing.draw(images.shape[0], self.alpha, host(generator), images.device)
        mass = 1 - images if self.light else images
        mixed = self.barycenter(mass, mass[pairing.partner], pairing.lam).to(images.dtype)
        return 1 - mixed if self.light else mixed, pairing.mix(soft)

    @torch.no_grad()
    def barycenter(self, first: Tensor, second: Tensor, lam: float) -> Tensor:
        """Of two batches of images (b, channels, height, width) with dark background; float64, in [0, 1]."""
        content = torch.stack((first, second)).double().clamp(0, 1)
        mass = content.sum((-2, -1), keepdim=True)
        # An empty channel has no shape to move: it takes its partner's, or any shape where both are empty.
        content = torch.where(mass > 0, content, content.flip(0))
        content = torch.where(mass.amax(0) > 0, content, 1.0)
        shapes = content / content.sum((-2, -1), keepdim=True)
        weights = torch.tensor([lam, 1 - lam], dtype=torch.float64, device="cpu").to(first.device, non_blocking=True)
        middle = convolutional_barycenter(
            shapes, weights, reg=self.reg, iterations=self.iterations, debiased=self.debiased
        )
        total = lam * mass[0] + (1 - lam) * mass[1]
        return (middle / middle.sum((-2, -1), keepdim=True) * total).clamp(max=1)
