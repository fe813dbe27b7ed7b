"""The encoder of a trained classifier as the backbone of a detector."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..evaluation.inference import evaluating
from ..models import SplitModel

__all__ = ["Backbone"]

_PROBE = (256, 192)
"""Height and width; unequal, so that features of another layout than (b, d, h, w) are not taken for it."""


_REFUSALS = (RuntimeError, ValueError, AssertionError, TypeError)
"""What networks raise for images that they do not take."""


class Backbone(nn.Module):
    """A copy of a classifier's stages; gives the maps of those after which the resolution changes, finest first. A last
    stage that pools all images to one size, as VGG's, is left out.

    Batch normalisation keeps the statistics and the factors of the classifier, as is usual for pre-trained
    backbones: the batches of a detector are small.

    Args:
        model: a convolutional network.
        frozen_stages: number of stages, from the first on, that keep their weights.
        mixed_precision: compute the maps in bfloat16 where that is safe (autocast), and give them as float32: boxes
            need the digits, so that the rest of a detector does not follow.

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

    def __init__(self, model: SplitModel, *, frozen_stages: int = 0, mixed_precision: bool = False) -> None:
        super().__init__()
        self.mixed_precision = mixed_precision
        if not 0 <= frozen_stages <= model.depth:
            raise ValueError(f"frozen_stages must lie between 0 and the model's {model.depth}, got {frozen_stages}")
        found = _maps(model)
        last = {stride: number for number, (stride, _) in enumerate(found)}
        self._given = tuple(last.values())
        self.strides = tuple(last)
        self.channels = tuple(found[number][1] for number in last.values())
        self.stages = copy.deepcopy(model.stages[: len(found)]).requires_grad_(True)  # whatever the classifier froze
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
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed_precision):
            for number, stage in enumerate(self.stages):
                x = stage(x)
                if number in self._given:
                    maps[str(number)] = x.to(images.dtype)
        return maps


def _maps(model: SplitModel) -> list[tuple[int, int]]:
    """Stride and channels of the output of every stage, except a last one that pools images to a fixed size."""
    found: list[tuple[int, int]] = []
    with evaluating(model):
        x = _probe(model)
        for number, stage in enumerate(model.stages):
            before = x
            try:
                x = stage(before)
            except _REFUSALS as error:
                raise _no_maps(number, "does not take") from error
            if not isinstance(x, Tensor) or x.ndim != 4:
                raise _no_maps(number, f"gives {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__} for")
            if found and number == model.depth - 1 and stage(before[..., : before.shape[3] // 2]).shape == x.shape:
                break
            down, across = (round(math.log2(side / of)) for side, of in zip(_PROBE, x.shape[2:], strict=True))
            if down != across:
                raise _no_maps(number, f"gives {tuple(x.shape)} for")
            found.append((2**down, x.shape[1]))
    return found


def _probe(model: SplitModel) -> Tensor:
    """An image of as many channels as the first stage takes."""
    weight = next(model.parameters())
    known = [3, 1] if model.pixel_mean is None else [len(model.pixel_mean)]
    images = [torch.zeros(1, channels, *_PROBE, device=weight.device, dtype=weight.dtype) for channels in known]
    for image in images:
        try:
            model.stages[0](image)
        except _REFUSALS:
            continue
        return image
    return images[0]


def _no_maps(stage: int, does: str) -> ValueError:
    return ValueError(
        f"this network cannot be the backbone of a detector: its stage {stage} {does} an image of "
        f"{' x '.join(map(str, _PROBE))} pixels. It must be convolutional, with maps (b, d, h, w) of images of any size"
    )
