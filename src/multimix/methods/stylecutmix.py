"""StyleCutMix (Hong et al., CVPR 2021): the content of a box, the style by a ratio."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..functional._checks import check_file, check_positive
from ..models import SplitModel
from .adain import adain
from .cutmix import CutMix
from .pairs import draw_beta, host, probabilities
from .style_distance import load_distances
from .stylemix import StyleMethod


class StyleCutMix(StyleMethod):
    """CutMix of two images, each partly in the style of the other.

    With D_ij the decoded image of content i in the style of j, x_ij = gamma x_i + (1 - gamma) D_ij and
    r_s ~ Beta(alpha, alpha), pixels of the first image are r_s x_1 + (1 - r_s) x_12, those in the box pasted from the
    second (1 - r_s) x_2 + r_s x_21. With kept the share of pixels of the first image, its weight in the target is
    w kept + (1 - w) (gamma kept + (1 - gamma) r_s): content and style as they are in the pixels.

    gamma ~ Beta(gamma_alpha, gamma_alpha) for a mini-batch, or, with `distances`, tanh(distance / delta) for every
    pair, from the distance of the styles of the two classes: similar styles are exchanged, different ones are not.
    Published use: half of the mini-batches, `Either(StyleCutMix(...), Erm(), p=0.5)`.

    Args:
        alpha: of the Beta distributions of the box's area and of r_s.
        gamma_alpha: of the Beta distribution of gamma, where there are no `distances`.
        encoder, decoder: files of AdaIN weights, in the layout of vgg_normalised.pth and decoder.pth.
        distances: file with a tensor (c, c) of distances between the styles of the classes, see `style_distances`.
        delta: scale of the distances; the authors' 3.0 on CIFAR-100 and 1.0 on CIFAR-10.
        content_weight: w, the weight of content in the targets (r in the paper).
        resolution: images are styled with a shorter side of so many pixels, and mixed at their own size.

    Raises:
        ValueError: no files are named, a file cannot be used, or an option is out of its range.
        FileNotFoundError: a file does not exist (raised by `setup` or the first mini-batch).

    >>> method = StyleCutMix(encoder="vgg_normalised.pth", decoder="decoder.pth")
    """

    def __init__(
        self,
        alpha: float = 1.0,
        gamma_alpha: float = 0.8,
        *,
        encoder: Path | str | None = None,
        decoder: Path | str | None = None,
        distances: Path | str | None = None,
        delta: float = 3.0,
        content_weight: float = 0.7,
        resolution: int = 224,
    ) -> None:
        super().__init__(encoder, decoder, content_weight, resolution)
        self.cutmix = CutMix(alpha)
        self.gamma_alpha = check_positive("gamma_alpha", gamma_alpha)
        self.delta = check_positive("delta", delta)
        self.distances = None if distances is None else check_file("distances", distances)
        self._distance: Tensor | None = None

    def setup(self, model: SplitModel) -> None:
        super().setup(model)
        self._distances_of(model.num_classes, next(model.parameters()).device)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        soft = probabilities(images, targets, num_classes)
        generator = host(generator)
        # Its box and partners; the pixels are exchanged below.
        _, partner, box = self.cutmix.paste(images, generator)
        style = draw_beta(self.cutmix.alpha, generator)
        gamma = self._gamma(soft, soft[partner], generator)
        networks = self.networks(images.device)
        first = networks.encode(images, self.resolution)
        second, partners = first[partner], images[partner]

        share = gamma.to(images.dtype).view(-1, 1, 1, 1)
        styled = torch.lerp(networks.decode(adain(first, second), images), images, share)
        mixed = torch.lerp(styled, images, style)
        styled = torch.lerp(networks.decode(adain(second, first), images), partners, share)
        mixed[box.pixels] = torch.lerp(partners, styled, style)[box.pixels]

        kept = 1 - box.share(images)
        style_share = gamma * kept + (1 - gamma) * style
        weight = self.content_weight * kept + (1 - self.content_weight) * style_share
        return mixed, torch.lerp(soft[partner], soft, weight.view(-1, 1))

    def _gamma(self, soft: Tensor, partner: Tensor, generator: torch.Generator) -> Tensor:
        """(b,), the share of its own style that an exchanged image keeps; equal for all unless there are distances."""
        distances = self._distances_of(soft.shape[1], soft.device)
        if distances is None:
            return soft.new_full((soft.shape[0],), draw_beta(self.gamma_alpha, generator))
        # For class indices, the entry of the two classes; for soft targets, its expectation.
        distance = ((soft @ distances.to(soft.dtype)) * partner).sum(1)
        return torch.tanh(distance / self.delta)

    def _distances_of(self, num_classes: int, device: torch.device) -> Tensor | None:
        if self.distances is None:
            return None
        if self._distance is None or len(self._distance) != num_classes or self._distance.device != device:
            self._distance = load_distances(self.distances, num_classes).to(device)
        return self._distance
