"""Train better classifiers by interpolating embeddings.

>>> import torch, multimix as mm
>>> embeddings, labels, head = torch.randn(8, 16), torch.arange(8), torch.nn.Linear(16, 10)
>>> loss = mm.MultiMix()(embeddings, labels, head)

Needs torch alone; `multimix.training`, `multimix.data` and `multimix.evaluation` need the extras.
"""

from . import functional, methods, models, random
from ._version import __version__
from .criteria import DenseMultiMix, Metrix, MMix, MultiMix
from .distributed import gather
from .functional import SMALL_ALPHA

__all__ = [
    "SMALL_ALPHA",
    "DenseMultiMix",
    "MMix",
    "Metrix",
    "MultiMix",
    "__version__",
    "functional",
    "gather",
    "methods",
    "models",
    "random",
]
