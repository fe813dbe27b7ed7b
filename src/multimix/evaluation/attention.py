"""Attention maps (9) of a trained classifier, on the grid of its features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..criteria.classifiers import class_weights
from ..criteria.dense import as_tokens
from ..functional import attention_map
from ..models import SplitModel

__all__ = ["ATTENTIONS", "attention_maps"]

ATTENTIONS = ("gap-relu", "gap-softmax", "cam-relu", "cam-softmax", "uniform")
"""Every attention of the paper: u of (9), then its non-linearity h, which makes no difference to uniform attention."""


def attention_maps(
    model: SplitModel, features: Tensor, targets: Tensor, kinds: Sequence[str] = ATTENTIONS
) -> dict[str, Tensor]:
    """The attention a = h(z' u) of every image at every position (9).

    Args:
        model: a convolutional network, or a transformer with patch tokens.
        features: of square images, `model.features(images)`; (b, d, h, w) or (b, t, d).
        targets: class indices (b,), for attention by class (CAM).
        kinds: some of `ATTENTIONS`.

    Returns:
        By kind, (b, h, w); each map sums to 1.

    Raises:
        ValueError: features without a grid of positions; CAM with a classifier that is not linear; an unknown kind.

    >>> import torch
    >>> from multimix.models import build
    >>> model = build("smallnet", num_classes=10, image_size=16, channels=1)
    >>> features = model.features(torch.rand(2, 1, 16, 16))
    >>> attention_maps(model, features, torch.tensor([3, 7]), ["cam-relu"])["cam-relu"].shape
    torch.Size([2, 4, 4])
    """
    unknown = [kind for kind in kinds if kind not in ATTENTIONS]
    if unknown:
        raise ValueError(f"attention must be some of {', '.join(ATTENTIONS)}, got {', '.join(unknown)}")
    if features.ndim not in (3, 4):
        raise ValueError(
            "attention needs features with spatial positions, (b, d, h, w) or (b, t, d), but those of this model are "
            f"{tuple(features.shape)}: evaluate a convolutional network or a vision transformer"
        )
    positions = model.dense(features)
    tokens = as_tokens(positions)
    height, width = positions.shape[2:] if positions.ndim == 4 else _square(tokens.shape[1])
    if height * width == 1:
        raise ValueError("attention needs several spatial positions, but the features of this model have one")
    found = {}
    for kind in kinds:
        by, _, nonlinearity = kind.partition("-")
        weight = class_weights(model.classifier) if by == "cam" else None
        a = attention_map(tokens, by, nonlinearity or "relu", targets, weight)
        found[kind] = a.unflatten(1, (height, width))
    return found


def _square(count: int) -> tuple[int, int]:
    side = round(count**0.5)
    if side * side != count:
        raise ValueError(
            f"the {count} patch tokens of this model do not form a square grid: either the images are not square, or "
            "the model's prefix_tokens does not count its class token and registers"
        )
    return side, side
