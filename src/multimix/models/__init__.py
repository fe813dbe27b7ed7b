"""Encoders with a classifier, split so that any layer can be the mixing layer.

`build` makes one from its name, `split` turns a torchvision, timm or similar model into one, and `SplitModel` takes
any stages, pool and classifier. Only the networks of torchvision and timm need those libraries.
"""

from .adapter import split
from .build import build
from .libraries import from_timm, from_torchvision
from .pool import GlobalAveragePool, Pool
from .preactresnet import preactresnet
from .smallnet import smallnet
from .split_model import SplitModel
from .wide_resnet import wide_resnet

__all__ = [
    "GlobalAveragePool",
    "Pool",
    "SplitModel",
    "build",
    "from_timm",
    "from_torchvision",
    "preactresnet",
    "smallnet",
    "split",
    "wide_resnet",
]
