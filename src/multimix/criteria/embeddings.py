"""Checks of the embeddings that contrastive and metric learning losses take."""

from __future__ import annotations

from torch import Tensor

from ..functional._checks import check_floating


def check_embeddings(embeddings: Tensor, name: str = "embeddings") -> None:
    """Floating point, (b, d), at least one."""
    check_floating(**{name: embeddings})
    if embeddings.ndim != 2 or embeddings.shape[0] == 0:
        raise ValueError(f"{name} must be (b, d) with at least one example, got shape {tuple(embeddings.shape)}")
