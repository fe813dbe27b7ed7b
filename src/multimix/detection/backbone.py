"""The encoder of a trained classifier as the backbone of a detector."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..evaluation.inference import evaluating
from ..models import SplitModel

__all__ = ["Backbone"]

_PROBE = (256, 192)
"""Height and width; unequal, so that features of another layout than (b, d, h, w) are not taken for it."""


class Backbone(nn.Module):
    """A copy of a classifier's stages; gives the maps of those after which the resolution changes, finest first.

    Batch normalisation keeps the statistics and the factors of the classifier, as is usual for pre-trained
    backbones: the batches of a detector are small.

    Args:
        model: a convolutional network.
        frozen_stages: so many stages, from the first on, keep their weights.

    Attributes:
        strides: of the maps, in pixels of the image.
        channels: of the maps.

    Raises:
        ValueError: the model's features are no maps, or it takes images of one size only, as transformers do; or it
            has fewer stages than should be frozen.

    >>> from multimix import models
    >>> backbone = Backbone(models.build("preactresnet18-w8", num_classes=10, image_size=32))
    >>> backbone.strides, backbone.channels
    ((1, 2, 4, 8), (8, 16, 32, 64))
    >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 40, 24)).values()]
    [(1, 8, 40, 24), (1, 16, 20, 12), (1, 32, 10, 6), (1, 64, 5, 3)]
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def __init__(self, model: SplitModel, *, frozen_stages: int = 0) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= model.depth:
            raise ValueError(f"frozen_stages must lie between 0 and the model's {model.depth}, got {frozen_stages}")
        found = _maps(model)
        last = {stride: number for number, (stride, _) in enumerate(found)}
        self._given = tuple(last.values())
        self.strides = tuple(last)
        self.channels = tuple(found[number][1] for number in last.values())
        self.stages = copy.deepcopy(model.stages)
        for stage in self.stages[:frozen_stages]:
            stage.requires_grad_(False)
        for module in self.stages.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.stages.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (b, d, h, w) by the number of their stage, from normalised images (b, channels, height, width)."""
        maps = {}
        x = images
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in self._given:
                maps[str(number)] = x
        return maps


def _maps(model: SplitModel) -> list[tuple[int, int]]:
    """Stride and channels of the output of every stage."""
    height, width = _PROBE
    weight = next(model.parameters())
    channels = _input_channels(model)
    x = torch.zeros(1, channels, height, width, device=weight.device, dtype=weight.dtype)
    found = []
    with evaluating(model):
        for number, stage in enumerate(model.stages):
            try:
                x = stage(x)
            except (RuntimeError, ValueError, AssertionError, TypeError) as error:
                raise _no_maps(f"its stage {number} does not take an image of {height} x {width} pixels") from error
            if not isinstance(x, Tensor) or x.ndim != 4:
                shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise _no_maps(f"its stage {number} gives {shape} for an image of {height} x {width} pixels")
            stride = round(height / x.shape[2])
            if stride != round(width / x.shape[3]):
                raise _no_maps(f"its stage {number} gives {tuple(x.shape)} for an image of {height} x {width} pixels")
            found.append((stride, x.shape[1]))
    return found


def _input_channels(model: SplitModel) -> int:
    if model.pixel_mean is not None:
        return len(model.pixel_mean)
    first: Any = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _no_maps(why: str) -> ValueError:
    return ValueError(
        f"this network cannot be the backbone of a detector: {why}. It must be convolutional, with maps (b, d, h, w) "
        "of images of any size"
    )
