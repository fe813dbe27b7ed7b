"""Pools: from features to one embedding per example, and what of it makes sense at a single position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """The mean over positions: (b, d, *spatial) -> (b, d)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).mean(2)

    def dense(self, positions: Tensor) -> Tensor:
        """(b, d, *spatial) as they are; features (b, d, t) of a 1-D network as tokens (b, t, d)."""
        return positions.mT if positions.ndim == 3 else positions


class Pool(nn.Module):
    """Features to embeddings in two steps: positions to one vector, then the layers up to the classifier.

    Some networks have layers between the average over positions and the classifier (ConvNeXt a LayerNorm, MobileNetV3
    a hidden layer). Removing the average, as Dense MultiMix does, leaves these to be applied at every position.

    Args:
        reduce: features -> (b, *shape), an average over positions or the choice of a token.
        neck: (b, *shape) -> embeddings (b, d').
        shape: of one reduced example, (d,) or (d, 1, 1).

    >>> import torch
    >>> norm = nn.Sequential(nn.Flatten(), nn.LayerNorm(8))
    >>> pool, features = Pool(nn.AdaptiveAvgPool2d(1), norm, shape=(8, 1, 1)), torch.randn(2, 8, 4, 4)
    >>> pool(features).shape, pool.dense(features).shape
    (torch.Size([2, 8]), torch.Size([2, 8, 4, 4]))
    """

    def __init__(self, reduce: nn.Module, neck: nn.Module, *, shape: Sequence[int]) -> None:
        super().__init__()
        self.reduce = reduce
        self.neck = neck
        self.shape = tuple(shape)

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.neck(self.reduce(features))
        return embeddings

    def dense(self, positions: Tensor) -> Tensor:
        """The neck at every position: (b, d, *spatial) -> (b, d', *spatial), (b, r, d) -> (b, r, d')."""
        tokens = positions if positions.ndim == 3 else positions.flatten(2).mT
        out = self.neck(tokens.reshape(-1, *self.shape)).unflatten(0, tokens.shape[:2])
        dense: Tensor = out if positions.ndim == 3 else out.mT.unflatten(2, positions.shape[2:])
        return dense


class WholePool(nn.Module):
    """A pool that is neither an average over positions nor the choice of a token: it has no dense counterpart."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.layers(features)
        return embeddings

    def dense(self, positions: Tensor) -> NoReturn:
        """Refuses."""
        raise ValueError(
            "this model's pool neither averages positions nor chooses a token (it flattens them, takes their maximum "
            "or attends to them), so its classifier means nothing at a position: use MultiMix, or another encoder"
        )
