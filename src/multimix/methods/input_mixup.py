"""Input mixup (Zhang et al., ICLR 2018), (5)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._checks import Alpha
from .pairs import InputMethod, LinearMixing, host, probabilities


class InputMixup(InputMethod):
    """Mix pairs of images linearly, X~ = X (lambda I + (1 - lambda) Pi) (5).

    One lambda ~ Beta(alpha, alpha) and one permutation Pi per mini-batch.

    With `n`, `m` or a range of `alpha` it goes beyond pairs and beyond the mini-batch in the input space:
    X~ = X Lambda, as (6) has it for embeddings, where every column has weights of its own.

    Args:
        alpha: default 1.0, as in the authors' CIFAR code. A range (low, high): alpha ~ U[low, high] for every mixed
            image.
        n: number of mixed images; default: as many as there are clean ones.
        m: images per mixture; at most the mini-batch.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = InputMixup().mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.sum(1).tolist()
    (torch.Size([4, 3, 8, 8]), [1.0, 1.0, 1.0, 1.0])
    >>> InputMixup(n=10, m=3).mix(images, labels, 3)[0].shape
    torch.Size([10, 3, 8, 8])
    """

    def __init__(self, alpha: Alpha = 1.0, *, n: int | None = None, m: int = 2) -> None:
        super().__init__()
        self.linear = LinearMixing.checked(alpha, n, m)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        soft = probabilities(images, targets, num_classes)
        mixing = self.linear.draw(images.shape[0], host(generator), images.device)
        return mixing.mix(images), mixing.mix(soft)
