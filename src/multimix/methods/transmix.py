"""TransMix (Chen et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import SplitModel
from ..models.attention import features_and_attention
from .base import Mixed, Mixer
from .cutmix import CutMix
from .pairs import host, probabilities
from .token_grid import token_grid


class TransMix(Mixer):
    """CutMix for vision transformers, whose label weight follows the attention of the class token.

    The pasted image's weight is the mean of its share of the area and its share of the class token's attention to
    the patches, in the last block and on the mixed image, for every mixed image by itself. It needs one forward
    pass: the attention is computed on the way to the features that are then classified, without gradient.

    The model needs a class token as embedding (`vit-s16`, DeiT); others are refused. The authors' configuration
    alternates with input mixup: `Either(TransMix(), InputMixup(alpha=0.8), p=0.8)`.

    Args:
        alpha: of Beta(alpha, alpha), for the area; default 1.0, as in the authors' code.

    >>> method = TransMix()
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.cutmix = CutMix(alpha)

    def mixed(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> Mixed:
        soft = probabilities(images, targets, model.num_classes)
        mixed, partner, box = self.cutmix.paste(images, host(generator))
        features, attention = features_and_attention(model, mixed)
        pasted = box.mask(images)
        share = (box.share(images) + attention_share(attention, pasted)) / 2
        share = share[:, None].to(soft.dtype)
        return Mixed(features, model.depth, torch.lerp(soft, soft[partner], share))


def attention_share(attention: Tensor, pasted: Tensor) -> Tensor:
    """The share (b,) of attention (b, r) to patches that falls on a region of the image.

    `pasted` (h, w) is 1 in the region and 0 elsewhere; a patch that lies in it in part counts in part.

    Raises:
        ValueError: r square patches cannot tile the image.

    >>> attention_share(torch.tensor([[0.1, 0.2, 0.3, 0.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    tensor([0.4167])
    """
    grid = token_grid(attention.shape[1], *pasted.shape)
    inside = F.adaptive_avg_pool2d(pasted[None], grid).flatten().to(attention.dtype)
    total = attention.sum(1).clamp(min=torch.finfo(attention.dtype).tiny)
    return (attention * inside).sum(1) / total
