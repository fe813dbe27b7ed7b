"""Dense MultiMix where every position has a target of its own; section 3.3 is about images without them.

Legend: R positions, N mixtures, B examples, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..functional import attend, mixed_cross_entropy
from ..functional._checks import check_targets, mixing_dtype
from ..functional._transforms import needs_formula
from ..functional.loss import counted, or_one
from ..kernels.ops import sampled_cross_entropy
from .multimix import check_classes, check_some, draw_weights, seed_and_alpha

if TYPE_CHECKING:
    from .dense import DenseMultiMix


def dense_targets_loss(
    criterion: DenseMultiMix,
    logits_RBC: Tensor,
    targets: Tensor,
    attention_BR: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """(14) with Y~_j = Y_j Lambda_j, one position after the other.

    With normalize="position" and no gradient in attention or targets, no weights are kept for the backward pass;
    otherwise those of all positions are, r n b numbers.

    Args:
        targets: class indices (b, r) or probabilities (b, r, c).
    """
    r, b, c = logits_RBC.shape
    check_classes(c)
    check_some(b, logits_RBC)
    wanted = (b, r, c) if targets.is_floating_point() else (b, r)
    if tuple(targets.shape) != wanted:
        raise ValueError(f"dense targets must be {wanted} for logits {(b, r, c)}, got {tuple(targets.shape)}")
    check_targets(targets.flatten(0, 1), b * r, c, beside=logits_RBC)
    if criterion.n == math.inf:
        raise ValueError("n=math.inf has no dense targets: use a finite n, such as n=1000")
    if criterion.implementation == "triton":
        raise ValueError("implementation='triton' has no dense targets: use implementation='auto'")
    dtype = mixing_dtype(logits_RBC.dtype)
    needs_weights = targets.requires_grad or (attention_BR is not None and attention_BR.requires_grad)
    by_formula = needs_weights or needs_formula(logits_RBC, targets, attention_BR)
    if criterion.implementation == "auto" and criterion.normalize == "position" and not by_formula:
        found = [
            sampled_cross_entropy(
                logits_RBC[j : j + 1],
                targets[:, j],
                None if attention_BR is None else attention_BR[:, j : j + 1],
                *seed_and_alpha(criterion, generator),
                n=int(criterion.n),
                m=criterion.points(b),
                normalize="position",
            )
            for j in range(r)
        ]
        attended = r if attention_BR is None else or_one((counted(attention_BR.to(dtype).sum(0)) > 0).sum())
        return criterion.scale(b) * torch.stack(found).sum() / attended
    losses, totals = [], []
    for j in range(r):
        lam = draw_weights(criterion, int(criterion.n), b, 1, logits_RBC, generator)
        s = None
        if attention_BR is not None:
            lam, s = attend(lam, attention_BR[:, j : j + 1])
        totals.append(lam.new_tensor(lam.shape[1]) if s is None else s.sum().to(dtype))
        losses.append(
            mixed_cross_entropy(logits_RBC[j : j + 1], targets[:, j], lam, s, "none", criterion.implementation)
        )
    loss_R, total_R = torch.stack(losses), torch.stack(totals)
    if criterion.normalize == "global":
        return criterion.scale(b) * loss_R.sum() / or_one(total_R.sum())
    return criterion.scale(b) * (loss_R / or_one(total_R)).sum() / or_one((total_R > 0).sum())
