"""What a method that has parameters must know of a model before it has seen an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models import SplitModel
from ..models.modes import keeping_modes
from .mix_block import feature_map


def image_channels(model: SplitModel) -> int:
    """The number of channels of the images that the model takes.

    >>> image_channels(SplitModel([nn.Conv2d(1, 8, 3)], nn.Flatten(), nn.Linear(8, 5)))
    1
    """
    if model.pixel_mean is not None:
        return len(model.pixel_mean)
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


@torch.no_grad()
def feature_channels(model: SplitModel, layer: int) -> int:
    """The number of channels d of the feature maps after stage `layer`, from one evaluation of a blank image.

    Raises:
        ValueError: the model fails on images of every size tried, or has no feature maps there.

    >>> feature_channels(SplitModel([nn.Conv2d(1, 8, 3)], nn.Flatten(), nn.Linear(8, 5)), 1)
    8
    """
    told = [getattr(m, name, None) for m in model.modules() for name in ("img_size", "image_size")]
    # Height and width are the last two of what a model tells, which may be one number, or no size at all.
    sizes = [tuple(size[-2:]) if isinstance(size, (tuple, list)) else (size, size) for size in (*told, 32, 64, 224)]
    like, failure = next(model.parameters(), torch.empty(0)), Exception()
    with keeping_modes(model):
        model.eval()  # a blank image must not enter the running statistics
        for height, width in dict.fromkeys(size for size in sizes if [*map(type, size)] == [int, int]):
            images = like.new_zeros((1, image_channels(model), height, width))
            try:
                features: Tensor = feature_map(model, images, layer)
            except Exception as error:  # models raise anything on sizes that they do not take
                failure = error
            else:
                return features.shape[1]
    raise ValueError(f"cannot find out the features after stage {layer}: {failure}") from failure
