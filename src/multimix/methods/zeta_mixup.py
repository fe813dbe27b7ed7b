"""zeta-mixup (Abhishek et al., 2023): every example mixed with all others, mostly with itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._checks import check_positive
from .pairs import Combination, InputMethod, host, probabilities


class ZetaMixup(InputMethod):
    """Mix every image with all others of the mini-batch, mostly with itself: X~ = X Lambda.

    Every column of Lambda holds the weights k^-gamma of a truncated zeta distribution: rank 1 is the example itself,
    the other ranks are a random permutation of the rest of the mini-batch.

    With gamma above 1.7287, where zeta(gamma) = 2, every example outweighs all others together, whatever the size of
    the mini-batch.

    Args:
        gamma: default 2.8, as in the authors' code; larger mixes less.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    >>> mixed, soft = ZetaMixup().mix(images, labels, 4, torch.Generator().manual_seed(0))
    >>> soft.diagonal().tolist() == soft.amax(1).tolist()
    True
    """

    def __init__(self, gamma: float = 2.8) -> None:
        super().__init__()
        self.gamma = check_positive("gamma", gamma)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        soft = probabilities(images, targets, num_classes)
        lam = zeta_weights(images.shape[0], self.gamma, host(generator))
        combination = Combination(lam.to(images.device, non_blocking=True))
        return combination.mix(images), combination.mix(soft)


def zeta_weights(b: int, gamma: float, generator: torch.Generator) -> Tensor:
    """Lambda transposed (b, b): row i has 1 / Z at i, and k^-gamma / Z, k = 2 .. b, in random order elsewhere.

    >>> zeta_weights(3, 2.0, torch.Generator().manual_seed(0)).sort(1).values[0] * 49
    tensor([ 4.,  9., 36.])
    """
    order = torch.rand(b, b, generator=generator, device="cpu", dtype=torch.float64).fill_diagonal_(-1).argsort(1)
    weights = torch.arange(1, b + 1, device="cpu", dtype=torch.float64) ** -gamma
    ranked = (weights / weights.sum()).float().expand(b, b)
    return ranked.new_zeros(b, b).scatter_(1, order, ranked)
