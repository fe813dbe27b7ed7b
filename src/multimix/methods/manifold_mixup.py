"""Manifold mixup (Verma et al., ICML 2019), (3)-(4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import Mixed, Mixer
from .pairs import Pairing, check_positive, host, probabilities

if TYPE_CHECKING:
    from ..models import SplitModel


class ManifoldMixup(Mixer):
    """Z~ = Z (lambda I + (1 - lambda) Pi) (3) at a layer drawn uniformly from `layers` for every mini-batch.

    Args:
        alpha: of Beta(alpha, alpha); default 2.0, as in the authors' code.
        layers: mixing layers, 0 being the input and k the output of stage k; default (0, 1, 2), the authors'.
            The loss is cross entropy against the mixed targets (4); the authors' code has a binary cross entropy
            on the softmax, which the paper does not.
    """

    def __init__(self, alpha: float = 2.0, layers: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)
        self.layers = tuple(layers)
        if not self.layers or any(not isinstance(k, int) or k < 0 for k in self.layers):
            raise ValueError(f"layers must be one or more whole numbers, 0 for the input, got {layers!r}")

    def mixed(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> Mixed:
        if max(self.layers) > model.depth:
            raise ValueError(f"layers must be at most {model.depth} for this model, got {self.layers}")
        soft = probabilities(images, targets, model.num_classes)
        generator = host(generator)
        pairing = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        layer = self.layers[int(torch.randint(len(self.layers), (), generator=generator))]
        return Mixed(pairing.mix(model.features(images, stop=layer)), layer, pairing.mix(soft))
