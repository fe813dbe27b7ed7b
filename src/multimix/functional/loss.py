"""Cross entropy of mixed examples against mixed targets, (8) and (14), from the clean logits of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import (
    as_probabilities,
    by_position,
    check_choice,
    check_floating,
    check_targets,
    check_tensor,
    mixing_dtype,
)
from ._transforms import needs_formula, refuse_transforms, without_autocast

MASKED = -1e30
"""What lower logits are taken for: -inf, of a masked class, times a weight of 0 would be NaN."""


def mixed_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    lam: Tensor,
    weight: Tensor | None = None,
    normalize: str = "position",
    implementation: str = "auto",
) -> Tensor:
    """The (weighted) cross entropy of the mixed logits `lam @ logits` against the mixed targets, (8), (14).

    For a linear classifier this is the paper's loss exactly: mixing the logits of the clean examples equals
    classifying mixed embeddings, bias included, because every row of `lam` sums to 1.

    Args:
        logits: of the clean examples, (b, c), or (*, b, c), one set for each spatial position.
        targets: class indices (b,) or probabilities (b, c), the same for every position; or of every position its own,
            (*, b) or (*, b, c).
        lam: interpolation weights (n, b), or (*, n, b).
        weight: s of (14), (n,) or (*, n), non-negative; None weighs all equally.
        normalize: "position": (14), the weighted mean over n, for each position, then the mean over the positions
            that have any weight; "global": one weighted mean over all positions and mixtures; "none": the weighted
            sum, for whoever divides by a total over several devices or micro-batches.
        implementation: "fused" never holds mixed embeddings or targets, and accumulates the gradients in the forward;
            "reference" is the equation written down; "auto" chooses fused, or the reference when the targets
            need a gradient, for forward-mode derivatives and under transforms of torch.func.

    Returns:
        A scalar, float32 (float64 for float64 logits), 0 where all weights are 0. Differentiable in `logits`,
        `lam` and `weight`, twice if asked to. Under autocast, and for half-precision logits, the arithmetic is
        float32.

    Raises:
        ValueError, TypeError: shapes, dtypes or class indices that do not fit, with what was received.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> labels = torch.tensor([0, 1])
    >>> one_hot = torch.eye(2)  # unmixed weights give plain cross entropy
    >>> bool(mixed_cross_entropy(logits, labels, one_hot).isclose(torch.nn.functional.cross_entropy(logits, labels)))
    True
    """
    check_choice("normalize", normalize, ("position", "global", "none"))
    check_choice("implementation", implementation, ("auto", "fused", "reference"))
    _check(logits, targets, lam, weight)
    if by_position(targets):
        targets = targets.flatten(0, -3) if targets.is_floating_point() else targets.flatten(0, -2)
    logits, lam = logits[None].flatten(0, -3), lam[None].flatten(0, -3)
    weight = None if weight is None else weight[None].flatten(0, -2)
    dtype = mixing_dtype(logits.dtype, lam.dtype)
    lam = lam.to(dtype)
    w = normalized_weights(lam, weight, normalize)
    by_formula = needs_formula(logits, targets, lam, w)
    if implementation == "auto":
        implementation = "reference" if targets.requires_grad or by_formula else "fused"
    if implementation == "reference":
        return reference(logits, targets, lam, w)
    if by_formula:
        refuse_transforms(implementation)
    if targets.requires_grad:
        raise ValueError(
            "implementation='fused' has no gradient in the targets: detach them, or use 'auto' or 'reference'"
        )
    from ..kernels.ops import fused_cross_entropy

    return fused_cross_entropy(logits, targets, lam, w)


def normalized_weights(lam: Tensor, weight: Tensor | None, normalize: str) -> Tensor:
    """Weights (r, n) such that the loss is the weighted sum of all r n cross entropies."""
    if weight is None:
        r, n, _ = lam.shape
        return lam.new_full((r, n), 1 if normalize == "none" else 1 / max(1, r * n))
    weight = weight.to(lam.dtype)
    if normalize == "none":
        return weight
    if normalize == "global":
        return weight / or_one(weight.sum())
    total = weight.sum(1, keepdim=True)
    return weight / or_one(total) / or_one((total > 0).sum())


def reference(logits: Tensor, targets: Tensor, lam: Tensor, w: Tensor) -> Tensor:
    """-sum_k w_k y~_k . log softmax(z~_k): the equation as it stands, every tensor in memory.

    `logits` (r, b, c), `targets` (b,), (b, c), (r, b) or (r, b, c), `lam` (r, n, b), `w` (r, n) normalised.
    """
    with without_autocast(logits):
        mixed_logits = lam @ logits.to(lam.dtype).clamp(min=MASKED)
        mixed_targets = lam @ as_probabilities(targets, logits.shape[-1], lam.dtype)
        cross_entropy = -(mixed_targets * mixed_logits.log_softmax(-1)).sum(-1)
        return (w * cross_entropy).sum()


def or_one(total: Tensor) -> Tensor:
    """`total`, with 1 in the place of 0: the divisor of a sum that is 0 too."""
    return torch.where(total == 0, torch.ones_like(total), total)


def negligible(dtype: torch.dtype) -> float:
    """Sums of attention below this count as 0: their reciprocals, times a logit, would overflow."""
    return 1024 * torch.finfo(dtype).tiny


def counted(total: Tensor) -> Tensor:
    """`total`, with 0 in the place of what is negligible."""
    return torch.where(total < negligible(total.dtype), torch.zeros_like(total), total)


def _check(logits: Tensor, targets: Tensor, lam: Tensor, weight: Tensor | None) -> None:
    check_floating(logits=logits, lam=lam)
    if logits.ndim < 2 or lam.ndim != logits.ndim:
        raise ValueError(
            f"logits (b, c) go with lam (n, b), and logits (*, b, c) with lam (*, n, b); "
            f"got logits {tuple(logits.shape)} and lam {tuple(lam.shape)}"
        )
    *leading, b, c = logits.shape
    if lam.shape[-1] != b or list(lam.shape[:-2]) != leading:
        expected = ", ".join(map(str, (*leading, "n", b)))
        raise ValueError(f"lam must be ({expected}) for logits {tuple(logits.shape)}, got {tuple(lam.shape)}")
    if logits.numel() == 0:
        raise ValueError(
            f"logits of no examples, classes or positions cannot be mixed, got shape {tuple(logits.shape)}"
        )
    check_targets(targets, b, c, beside=logits, positions=leading)
    if weight is None:
        return
    check_tensor("weight", weight)
    if weight.shape != lam.shape[:-1]:
        raise ValueError(f"weight must be {tuple(lam.shape[:-1])}, one per mixture, got {tuple(weight.shape)}")
