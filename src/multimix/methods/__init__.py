"""Training methods under one protocol: `out = method(model, images, targets, generator=None)`."""

from .alignmixup import AlignMixup
from .augmix import AugMix
from .automix import AutoMix
from .barycenter import BarycenterAutoMix
from .base import Method, MethodOutput, Mixed, Mixer
from .comixup import CoMixup
from .cutmix import CutMix
from .daml import Daml
from .dense_loss import DenseLoss
from .either import Either
from .erm import Erm
from .fmix import FMix
from .input_mixup import InputMixup
from .manifold_mixup import ManifoldMixup
from .multimix import DenseMultiMix, MultiMix
from .names import canonical, complete, parse, spelled, split_list
from .opttransmix import OptTransMix
from .pairs import InputMethod
from .puzzlemix import PuzzleMix
from .saliencymix import SaliencyMix
from .soft_targets import LabelSmoothing, SoftTargets
from .stylecutmix import StyleCutMix
from .stylemix import StyleMix
from .supermix import SuperMix
from .tokenmix import TokenMix
from .transmix import TransMix
from .zeta_mixup import ZetaMixup

__all__ = [
    "AlignMixup",
    "AugMix",
    "AutoMix",
    "BarycenterAutoMix",
    "CoMixup",
    "CutMix",
    "Daml",
    "DenseLoss",
    "DenseMultiMix",
    "Either",
    "Erm",
    "FMix",
    "InputMethod",
    "InputMixup",
    "LabelSmoothing",
    "ManifoldMixup",
    "Method",
    "MethodOutput",
    "Mixed",
    "Mixer",
    "MultiMix",
    "OptTransMix",
    "PuzzleMix",
    "SaliencyMix",
    "SoftTargets",
    "StyleCutMix",
    "StyleMix",
    "SuperMix",
    "TokenMix",
    "TransMix",
    "ZetaMixup",
    "canonical",
    "complete",
    "parse",
    "spelled",
    "split_list",
]
