"""The mix block of AutoMix: from two feature maps and lambda to a mask over the pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models import SplitModel
from .token_grid import token_grid

# Shape suffixes: B examples, D channels, R positions.


class MixBlock(nn.Module):
    """Cross attention between two feature maps, upsampled to a mask (Liu et al., ECCV 2022, section 4.1).

    With z_lam = [z, lam] the features and one channel of lambda,
    P = softmax((W z_lam)^T (W z'_{1-lam}) / sqrt(d')), mask' = sigmoid(upsample(P (v . z'_{1-lam}))): the share of the
    partner in every pixel. Computed in the precision of the parameters, under autocast too.

    Args:
        channels: d, of the feature maps; d' is half of it.
        lam_embedding: give lambda to the block.
        upsampling: "nearest" or "bilinear".

    >>> block = MixBlock(8)
    >>> z = torch.rand(2, 8, 4, 4)
    >>> block(z, z.flip(0), 0.3, size=(16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(self, channels: int, *, lam_embedding: bool = True, upsampling: str = "nearest") -> None:
        super().__init__()
        inputs = channels + lam_embedding
        self.lam_embedding, self.upsampling = lam_embedding, upsampling
        self.projection = nn.Conv2d(inputs, max(1, channels // 2), 1)
        self.value = nn.Conv2d(inputs, 1, 1)
        for layer in (self.projection, self.value):
            # Small, so that the first masks are one half everywhere: training starts from input mixup with lambda 1/2.
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, first: Tensor, second: Tensor, lam: float, *, size: tuple[int, int]) -> Tensor:
        """The share of the first image in every pixel, (b, 1, *size), from feature maps (b, d, h, w) of both."""
        with torch.autocast(first.device.type, enabled=False):
            first, second = self._embed(first, lam), self._embed(second, 1 - lam)
            query_BDR = self.projection(first).flatten(2)
            key_BDR = self.projection(second).flatten(2)
            attention_BRR = (query_BDR.mT @ key_BDR / math.sqrt(query_BDR.shape[1])).softmax(-1)
            partner = (attention_BRR @ self.value(second).flatten(2).mT).mT.unflatten(-1, first.shape[-2:])
            return torch.sigmoid(-F.interpolate(partner, size=size, mode=self.upsampling))

    def _embed(self, features: Tensor, lam: float) -> Tensor:
        features = features.to(self.value.weight.dtype)
        if not self.lam_embedding:
            return features
        return torch.cat([features, torch.full_like(features[:, :1], lam)], dim=1)


def feature_map(model: SplitModel, images: Tensor, layer: int) -> Tensor:
    """The output of stage `layer` as a map (b, d, h, w); the patch tokens of a transformer become one.

    Raises:
        ValueError: the features have no positions, or tokens that are no grid of the image's proportions.
    """
    features = model.features(images, stop=layer)
    if features.ndim == 4:
        return features
    if features.ndim != 3:
        raise ValueError(
            f"the mix block needs feature maps (b, d, h, w) or tokens (b, t, d), but stage {layer} gives "
            f"{tuple(features.shape)}: choose another layer"
        )
    tokens = features[:, model.prefix_tokens :]
    return tokens.mT.unflatten(2, token_grid(tokens.shape[1], *images.shape[-2:]))
