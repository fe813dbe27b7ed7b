"""Training methods under one protocol: `out = method(model, images, targets, generator=None)`."""

from .alignmixup import AlignMixup
from .base import Method, MethodOutput, Mixed, Mixer
from .cutmix import CutMix
from .dense_loss import DenseLoss
from .either import Either
from .erm import Erm
from .input_mixup import InputMixup
from .manifold_mixup import ManifoldMixup
from .multimix import DenseMultiMix, MultiMix
from .names import parse, spelled, split_list
from .pairs import InputMethod

__all__ = [
    "AlignMixup",
    "CutMix",
    "DenseLoss",
    "DenseMultiMix",
    "Either",
    "Erm",
    "InputMethod",
    "InputMixup",
    "ManifoldMixup",
    "Method",
    "MethodOutput",
    "Mixed",
    "Mixer",
    "MultiMix",
    "parse",
    "spelled",
    "split_list",
]
