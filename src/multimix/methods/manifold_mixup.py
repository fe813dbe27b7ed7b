"""Manifold mixup (Verma et al., ICML 2019), (3)-(4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..functional._checks import Alpha, check_counts
from ..models import SplitModel
from .base import Mixed, Mixer
from .pairs import LinearMixing, host, probabilities


class ManifoldMixup(Mixer):
    """Mix pairs of features linearly, Z~ = Z (lambda I + (1 - lambda) Pi) (3), at a random layer for every mini-batch.

    The layer is drawn uniformly from `layers`, lambda from Beta(alpha, alpha).

    With `n`, `m` or a range of `alpha` it goes beyond pairs and beyond the mini-batch at any layer: Z~ = Z Lambda
    (6), where every column has weights of its own. Figure 4 of the paper is then one sweep of this class over
    `layers`, `n`, `m` and `alpha`. Just before the classifier, `MultiMix` does the same without holding n embeddings.

    Args:
        alpha: of Beta(alpha, alpha); default 2.0, as in the authors' code. A range (low, high): alpha ~ U[low, high]
            for every mixed example.
        layers: mixing layers, 0 being the input and k the output of stage k; default (0, 1, 2), the authors'. A
            number stands for one layer.
        n: number of mixed examples; default: as many as there are clean ones.
        m: examples per mixture; at most the mini-batch.

    The loss is cross entropy against the mixed targets (4); the authors' code has a binary cross entropy on the
    softmax, which the paper does not.

    >>> method = ManifoldMixup((0.5, 2.0), layers=4, n=256, m=16)
    """

    def __init__(
        self, alpha: Alpha = 2.0, layers: int | Sequence[int] = (0, 1, 2), *, n: int | None = None, m: int = 2
    ) -> None:
        super().__init__()
        self.linear = LinearMixing.checked(alpha, n, m)
        self.layers = check_counts("layers", layers, least=0)

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
        mixing = self.linear.draw(images.shape[0], generator, images.device)
        layer = self.layers[int(torch.randint(len(self.layers), (), generator=generator, device="cpu"))]
        return Mixed(mixing.mix(model.features(images, stop=layer)), layer, mixing.mix(soft))
