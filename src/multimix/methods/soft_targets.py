"""Training on other targets than the labels: those that a data set brings with it, or smoothed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ..functional._checks import check_share
from ..models import SplitModel
from .base import Method, MethodOutput
from .pairs import probabilities


class OtherTargets(Method):
    """Base of what trains any method on targets of its own making: `around` makes another like it, `retarget` the
    targets."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        if not isinstance(method, Method):
            raise TypeError(f"method must be a method, such as Erm(), got {type(method).__name__}")
        self.method = method

    def around(self, method: Method) -> Self:
        raise NotImplementedError(f"{type(self).__name__} must define around")

    def retarget(self, model: SplitModel, images: Tensor, targets: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Targets (b, c), from the arguments of `forward`."""
        raise NotImplementedError(f"{type(self).__name__} must define retarget")

    def choices(self) -> list[tuple[float, Method]]:
        """What the method chooses from, each on these targets."""
        return [(weight, self.around(part)) for weight, part in self.method.choices()]

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        soft = self.retarget(model, images, targets, extras)
        return self.method(model, images, soft, generator, **self.method.wanted(extras))


class SoftTargets(OtherTargets):
    """Any method, with the data set's own soft targets (b, c) in place of the labels.

    For sets of images that were mixed in advance (`multimix.methods.supermix.build_set`) or labelled by a teacher:
    arrays `train_images`, `train_labels` and `train_soft_targets` in an `.npz` file.

    Args:
        method: what to train with, on these targets.

    >>> from multimix.methods import Erm
    >>> SoftTargets(Erm()).needs
    ('soft_targets',)
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("soft_targets", *super().needs)))

    def around(self, method: Method) -> SoftTargets:
        return SoftTargets(method)

    def retarget(self, model: SplitModel, images: Tensor, targets: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        return self.wanted(extras)["soft_targets"]


class LabelSmoothing(OtherTargets):
    """Any method on smoothed labels (Szegedy et al., CVPR 2016, section 7): y (1 - s) + s / c, before it mixes them.

    Mixing makes targets soft as well: this is the control of what softness alone does. Since mixed targets are linear
    in the labels, with weights that sum to 1, they are smoothed as much.

    Args:
        method: what to train with, on these targets.
        smoothing: s in [0, 1], the share of every target that all `c` classes have alike; default 0.1, as published.

    >>> from multimix import models
    >>> from multimix.methods import Erm
    >>> model = models.smallnet(num_classes=3, image_size=8)
    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> out = LabelSmoothing(Erm())(model, images, labels)
    >>> theirs = torch.nn.functional.cross_entropy(out.logits, labels, label_smoothing=0.1)
    >>> torch.allclose(out.loss, theirs)
    True
    """

    def __init__(self, method: Method, smoothing: float = 0.1) -> None:
        super().__init__(method)
        self.smoothing = check_share("smoothing", smoothing)

    def around(self, method: Method) -> LabelSmoothing:
        return LabelSmoothing(method, self.smoothing)

    def retarget(self, model: SplitModel, images: Tensor, targets: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        soft = probabilities(images, targets, model.num_classes)
        return soft * (1 - self.smoothing) + self.smoothing / soft.shape[1]
