"""Losses on embeddings: one line in a training loop."""

from .dense import DenseMultiMix
from .multimix import MultiMix

__all__ = ["DenseMultiMix", "MultiMix"]
