"""Losses on embeddings: one line in a training loop."""

from .dense import DenseMultiMix
from .m_mix import MMix
from .metric import Contrastive, MetricLoss, MultiSimilarity, ProxyAnchor
from .metrix import Metrix
from .multimix import MultiMix

__all__ = [
    "Contrastive",
    "DenseMultiMix",
    "MMix",
    "MetricLoss",
    "Metrix",
    "MultiMix",
    "MultiSimilarity",
    "ProxyAnchor",
]
