"""Checks of the embeddings that contrastive and metric learning losses take."""

from __future__ import annotations

from torch import Tensor


def check_embeddings(embeddings: Tensor, name: str = "embeddings") -> None:
    """Floating point, (b, d), at least one."""
    if not embeddings.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {embeddings.dtype}")
    if embeddings.ndim != 2 or embeddings.shape[0] == 0:
        raise ValueError(f"{name} must be (b, d) with at least one example, got shape {tuple(embeddings.shape)}")
