"""Input mixup (Zhang et al., ICLR 2018), (5)."""

from __future__ import annotations

import torch
from torch import Tensor

from .pairs import InputMethod, Pairing, check_positive, host, probabilities


class InputMixup(InputMethod):
    """X~ = X (lambda I + (1 - lambda) Pi) (5), with one lambda ~ Beta(alpha, alpha) per mini-batch.

    Args:
        alpha: default 1.0, as in the authors' CIFAR code.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = InputMixup().mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.sum(1).tolist()
    (torch.Size([4, 3, 8, 8]), [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        soft = probabilities(images, targets, num_classes)
        pairing = Pairing.draw(images.shape[0], self.alpha, host(generator), images.device)
        return pairing.mix(images), pairing.mix(soft)
