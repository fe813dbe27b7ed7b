"""Training on targets that a data set brings with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import Method, MethodOutput

if TYPE_CHECKING:
    from ..models import SplitModel


class SoftTargets(Method):
    """Any method, with the data set's own soft targets (b, c) in place of the labels.

    For sets of images that were mixed in advance (`multimix.methods.supermix.build_set`) or labelled by a teacher:
    arrays `train_images`, `train_labels` and `train_soft_targets` in an `.npz` file.

    Args:
        method: what to train with, on these targets.

    >>> from multimix.methods import Erm
    >>> SoftTargets(Erm()).needs
    ('soft_targets',)
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        if not isinstance(method, Method):
            raise TypeError(f"method must be a method, such as Erm(), got {type(method).__name__}")
        self.method = method

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("soft_targets", *super().needs)))

    def choices(self) -> list[tuple[float, Method]]:
        """What the method chooses from, each on these targets."""
        return [(weight, SoftTargets(part)) for weight, part in self.method.choices()]

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        soft = self.wanted(extras)["soft_targets"]
        return self.method(model, images, soft, generator, **self.method.wanted(extras))
