"""The parts of `multimix evaluate`: what is measured of a trained classifier, kept as it is measured, and shown.

Each part is a module with one frozen dataclass, whose fields are its options.
"""

from .accuracy import Accuracy
from .attacks import Attacks
from .attention import Attention
from .corruptions import Corruptions
from .detection import Detection
from .embedding import Embedding
from .intrusion import Intrusion
from .ood import Ood
from .part import Part
from .speed import Speed

__all__ = [
    "ALL",
    "CHEAP",
    "PARTS",
    "Accuracy",
    "Attacks",
    "Attention",
    "Corruptions",
    "Detection",
    "Embedding",
    "Intrusion",
    "Ood",
    "Part",
    "Speed",
]

PARTS: tuple[type[Part], ...] = (Accuracy, Attacks, Corruptions, Ood, Detection, Embedding, Intrusion, Attention, Speed)
"""All parts, in the order of the page."""

ALL: tuple[str, ...] = tuple(part.name for part in PARTS if part is not Detection)
"""Those of `--parts all`: detection trains a network on a data set of its own, and has to be named."""

CHEAP: tuple[str, ...] = ("accuracy", "ood", "intrusion")
"""Those that take a few passes over the images, which `multimix evaluate` runs unless told otherwise."""
