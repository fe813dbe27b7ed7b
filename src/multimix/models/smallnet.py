"""A small convolutional network for handwritten digits and for trials on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from .pool import GlobalAveragePool
from .split_model import SplitModel


def smallnet(
    *,
    num_classes: int,
    image_size: int,
    width: int = 16,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SplitModel:
    """Four stages of one 3x3 convolution, batch normalisation and ReLU each, of widths (1, 2, 4, 4) x `width`.

    As many stages halve the image, from the second on, as leave features of at least 4x4, so that Dense MultiMix has
    positions to work with: 8x8 digits are halved once, 32x32 images three times. Initialised as PyTorch does.

    Args:
        num_classes: c.
        image_size: side of the images; decides the strides only.
        width: channels of the first stage.
        channels: of the images.
        mean, std: as in `SplitModel`.

    Returns:
        features (b, 4 width, h', w'), 4x4 for images of 8x8, 16x16 and 32x32.

    Raises:
        ValueError: a width below 1.

    >>> import torch
    >>> smallnet(num_classes=10, image_size=8, channels=1).features(torch.rand(1, 1, 8, 8)).shape
    torch.Size([1, 64, 4, 4])
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    halvings = min(3, int(math.log2(max(image_size, 4) / 4)))
    stages, inputs = [], channels
    for k, factor in enumerate((1, 2, 4, 4)):
        outputs, stride = factor * width, 2 if 1 <= k <= halvings else 1
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        stages.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()))
        inputs = outputs
    return SplitModel(stages, GlobalAveragePool(), nn.Linear(inputs, num_classes), mean=mean, std=std)
