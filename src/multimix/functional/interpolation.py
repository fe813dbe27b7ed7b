"""Convex combinations of embeddings and targets, (6), (7), (12), (13)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import as_probabilities, check_floating, check_targets, mixing_dtype
from ._transforms import without_autocast


def interpolate(
    embeddings: Tensor, targets: Tensor, lam: Tensor, *, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Interpolate embeddings and targets: Z~ = Z Lambda (6) and Y~ = Y Lambda (7), here with examples as rows.

    Args:
        embeddings: (b, d), or (b, ...) of any shape to mix an earlier layer; with `lam` (r, n, b): (r, b, d), as
            in (12) with one matrix per position.
        targets: class indices (b,) together with `num_classes`, or floating-point numbers (b, ...) of any kind: class
            probabilities (b, c), a number to be regressed (b,), maps (b, c, h, w).
        lam: interpolation weights (n, b) or (r, n, b), rows on the simplex.
        num_classes: c; needed for class indices only.

    Returns:
        Mixed embeddings (n, d) [(n, ...), (r, n, d)] in the dtype of `embeddings`, and mixed targets (n, c) for class
        indices, else (n, ...) [with r in front], in float64 where embeddings or weights are, else in float32.
        The sums are taken in float32 or better, also under autocast.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit together; class indices without `num_classes`.

    >>> z, y = torch.eye(2), torch.eye(2)
    >>> z_mixed, y_mixed = interpolate(z, y, torch.tensor([[0.25, 0.75]]))
    >>> z_mixed, y_mixed
    (tensor([[0.2500, 0.7500]]), tensor([[0.2500, 0.7500]]))
    """
    check_floating(embeddings=embeddings, lam=lam)
    b = lam.shape[-1]
    examples = embeddings.ndim - 2 if lam.ndim == 3 else 0
    fits = embeddings.ndim == 3 and embeddings.shape[0] == lam.shape[0] if lam.ndim == 3 else embeddings.ndim >= 1
    if lam.ndim not in (2, 3) or not fits or embeddings.shape[examples] != b:
        raise ValueError(
            f"lam (n, b) goes with embeddings (b, ...), and lam (r, n, b) with embeddings (r, b, d); "
            f"got lam {tuple(lam.shape)} and embeddings {tuple(embeddings.shape)}"
        )
    if isinstance(targets, Tensor) and targets.is_floating_point():
        if targets.ndim < 1 or len(targets) != b:
            raise ValueError(f"targets must be ({b}, ...), one for each example, got {tuple(targets.shape)}")
        if num_classes is not None:
            check_targets(targets, b, num_classes, beside=embeddings)
    else:
        check_targets(targets, b, num_classes, beside=embeddings)
        if num_classes is None:
            raise ValueError(
                f"targets are class indices {tuple(targets.shape)}: give num_classes, or one-hot targets (b, c)"
            )
        targets = as_probabilities(targets, num_classes)
    with without_autocast(lam):
        dtype = mixing_dtype(embeddings.dtype, lam.dtype)
        return mix(embeddings, lam), torch.tensordot(lam.to(dtype), targets.to(dtype), dims=1)


def mix(embeddings: Tensor, lam: Tensor) -> Tensor:
    """Z Lambda alone: (b, ...) with lam (n, b), or (r, b, d) with lam (r, n, b); float32 or better inside."""
    dtype = mixing_dtype(embeddings.dtype, lam.dtype)
    with without_autocast(embeddings):
        z, lam = embeddings.to(dtype), lam.to(dtype)
        mixed = lam @ z if lam.ndim == 3 else torch.tensordot(lam, z, dims=1)
        return mixed.to(embeddings.dtype)
