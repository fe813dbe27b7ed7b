"""Empirical risk minimisation: plain cross entropy, (1)-(2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._checks import as_target, check_some_images, check_targets
from ..models import SplitModel
from .base import Method, MethodOutput


class Erm(Method):
    """Plain cross entropy of the clean mini-batch: the baseline of every comparison."""

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        check_some_images(images)
        check_targets(targets, len(images), model.num_classes)
        logits = model(images)
        return MethodOutput(torch.nn.functional.cross_entropy(logits, as_target(targets)), logits)
