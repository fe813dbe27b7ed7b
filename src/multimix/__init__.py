"""Train better classifiers by interpolating embeddings.

>>> import torch, multimix as mm
>>> embeddings, labels, head = torch.randn(8, 16), torch.arange(8), torch.nn.Linear(16, 10)
>>> loss = mm.MultiMix()(embeddings, labels, head)

Needs torch alone; `multimix.training`, `multimix.data` and `multimix.evaluation` need the extras.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from . import functional, methods, models, random
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

_FROM = {
    "SMALL_ALPHA": "functional",
    "DenseMultiMix": "criteria",
    "MMix": "criteria",
    "Metrix": "criteria",
    "MultiMix": "criteria",
    "gather": "distributed",
}


if not TYPE_CHECKING:  # type checkers would take every misspelled name for Any

    def __getattr__(name: str) -> object:
        """What is asked for is imported then: the command line answers at once, as torch takes seconds to import."""
        if name in _FROM:
            globals()[name] = getattr(import_module(f".{_FROM[name]}", __name__), name)
            return globals()[name]
        if name.isidentifier() and not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f".{name}", __name__)
        meant = name[:1].isupper() and hasattr(import_module(f"{__name__}.methods"), name)
        hint = f": did you mean multimix.methods.{name}?" if meant else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
