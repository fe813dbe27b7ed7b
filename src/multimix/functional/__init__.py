"""The paper's equations as pure functions. `import multimix as mm; F = mm.functional`."""

from .attention import attend, attention_map
from .closed_form import expected_mixed_cross_entropy
from .interpolation import interpolate
from .loss import mixed_cross_entropy
from .rescaling import SMALL_ALPHA, rescaling_factor
from .sampling import sample_weights

__all__ = [
    "SMALL_ALPHA",
    "attend",
    "attention_map",
    "expected_mixed_cross_entropy",
    "interpolate",
    "mixed_cross_entropy",
    "rescaling_factor",
    "sample_weights",
]
