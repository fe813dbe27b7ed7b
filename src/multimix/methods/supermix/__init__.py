"""SuperMix (Dabouei et al., CVPR 2021): the method, its masks, and sets of mixed images made in advance."""

from .masks import Masks, optimise_masks
from .method import SuperMix
from .offline import build_set

__all__ = ["Masks", "SuperMix", "build_set", "optimise_masks"]
