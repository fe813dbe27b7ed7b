"""SSD and Faster R-CNN of torchvision on the encoder of a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..extras import require
from ..models import SplitModel
from .backbone import Backbone

if TYPE_CHECKING:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.ssd import SSD

__all__ = ["faster_rcnn", "ssd"]

FINEST_FPN = 4
"""Stride of the finest map of a pyramid on a ResNet."""
MOST_POSITIONS = 64
"""Of a side of SSD's finest map: SSD512 has as many; SSD300 has 38, since with half the stride they would be 75."""
FPN_CHANNELS = 256


def ssd(
    model: SplitModel,
    *,
    num_classes: int,
    image_size: int = 300,
    frozen_stages: int = 0,
    mixed_precision: bool = False,
) -> SSD:
    """An SSD (Liu et al., ECCV 2016) whose backbone is a copy of a classifier's encoder.

    The encoder's maps of at most 64 positions a side (or the coarsest alone), normalised at every position as SSD does
    with its first, are followed by further layers of stride 2 with group normalisation, until one position is left. On
    ResNet-50 with images of 300 pixels that makes maps of 38, 19, 10, 5, 3, 2 and 1 positions a side. Boxes have aspect
    ratios 1 and 2 on the first and the last two maps, and also 3 on the others, and sizes between 0.07 and 1.05 of the
    image, as in torchvision's SSD300.

    New layers take their weights from the global RNG: seed it, or make them within `multimix.random.initialising`.

    Args:
        model: a convolutional network; its normalisation of pixels becomes the detector's.
        num_classes: with the background, which is class 0.
        image_size: side in pixels to which images are stretched.
        frozen_stages: number of stages of the encoder, from the first on, that keep their weights.
        mixed_precision: compute the encoder in bfloat16 where that is safe, which is faster on GPUs.

    Returns:
        A torchvision detector: images (channels, height, width) in [0, 1] and, in training, targets -> losses or
        detections. On the model's device.

    Raises:
        ValueError: the network gives no maps; fewer than two classes; images smaller than a position of the coarsest
            map.

    >>> from multimix import models
    >>> detector = ssd(models.build("preactresnet18-w8", num_classes=10, image_size=32), num_classes=4, image_size=64)
    >>> found = detector.eval()([torch.rand(3, 48, 96)])[0]
    >>> sorted(found), found["boxes"].shape[1]
    (['boxes', 'labels', 'scores'], 4)
    """
    module = require("torchvision.models.detection.ssd", "train")
    utils = require("torchvision.models.detection.anchor_utils", "train")
    _check(num_classes, image_size)
    backbone = _SsdBackbone(Backbone(model, frozen_stages=frozen_stages, mixed_precision=mixed_precision), image_size)
    maps = len(backbone.out_channels)
    ratios = [[2] if k == 0 or k >= maps - 2 else [2, 3] for k in range(maps)]
    scales = [0.07, *torch.linspace(0.15, 1.05, maps).tolist()]
    detector: SSD = module.SSD(
        backbone,
        utils.DefaultBoxGenerator(ratios, scales=scales),
        (image_size, image_size),
        num_classes,
        head=module.SSDHead(backbone.out_channels, [2 + 2 * len(ratio) for ratio in ratios], num_classes),
        **_normalisation(model),
    )
    return detector.to(_device(model))


def faster_rcnn(
    model: SplitModel,
    *,
    num_classes: int,
    image_size: int = 800,
    frozen_stages: int = 0,
    mixed_precision: bool = False,
) -> FasterRCNN:
    """A Faster R-CNN (Ren et al., NeurIPS 2015) with a feature pyramid (Lin et al., CVPR 2017) whose backbone is a
    copy of a classifier's encoder.

    The pyramid has the encoder's maps of stride 4 and more (or the coarsest alone) and one more of twice the coarsest
    stride, each with boxes of 8 strides in aspect ratios 1/2, 1 and 2: on ResNet-50 those of torchvision.

    New layers take their weights from the global RNG: seed it, or make them within `multimix.random.initialising`.

    Args:
        model: a convolutional network; its normalisation of pixels becomes the detector's.
        num_classes: with the background, which is class 0.
        image_size: length in pixels to which the shorter side of images is resized; the longer has at most 5/3 of it.
        frozen_stages: number of stages of the encoder, from the first on, that keep their weights.
        mixed_precision: compute the encoder in bfloat16 where that is safe, which is faster on GPUs.

    Returns:
        As `ssd`.

    Raises:
        As `ssd`.

    >>> from multimix import models
    >>> classifier = models.build("preactresnet18-w8", num_classes=10, image_size=32)
    >>> detector = faster_rcnn(classifier, num_classes=4, image_size=64)
    >>> sorted(detector.eval()([torch.rand(3, 48, 96)])[0])
    ['boxes', 'labels', 'scores']
    """
    module = require("torchvision.models.detection.faster_rcnn", "train")
    utils = require("torchvision.models.detection.anchor_utils", "train")
    ops = require("torchvision.ops", "train")
    _check(num_classes, image_size)
    backbone = _PyramidBackbone(Backbone(model, frozen_stages=frozen_stages, mixed_precision=mixed_precision))
    sizes = tuple((8 * stride,) for stride in backbone.strides)
    detector: FasterRCNN = module.FasterRCNN(
        backbone,
        num_classes,
        min_size=image_size,
        max_size=image_size * 1333 // 800,
        rpn_anchor_generator=utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=ops.MultiScaleRoIAlign(backbone.names, output_size=7, sampling_ratio=2),
        **_normalisation(model),
    )
    return detector.to(_device(model))


class _SsdBackbone(nn.Module):
    def __init__(self, backbone: Backbone, image_size: int) -> None:
        super().__init__()
        self.encoder = backbone
        first = _first(backbone.strides, image_size / MOST_POSITIONS)
        self.out_channels = list(backbone.channels[first:])
        self._skip = first
        self.rescale = nn.ModuleList(_Rescale(channels) for channels in self.out_channels)
        extra, positions = [], -(-image_size // backbone.strides[-1])
        while positions > 1:
            extra.append(_halving(self.out_channels[-1]))
            self.out_channels.append(256)
            positions = -(-positions // 2)
        self.extra = nn.ModuleList(extra)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = list(self.encoder(images).values())[self._skip :]
        maps = [rescale(x) for rescale, x in zip(self.rescale, maps, strict=True)]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return {str(number): x for number, x in enumerate(maps)}


class _PyramidBackbone(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        ops = require("torchvision.ops.feature_pyramid_network", "train")
        self.encoder = backbone
        self._skip = _first(backbone.strides, FINEST_FPN)
        self.strides = (*backbone.strides[self._skip :], 2 * backbone.strides[-1])
        channels = list(backbone.channels[self._skip :])
        self.names = [str(number) for number in range(len(channels))]
        self.out_channels = FPN_CHANNELS
        self.pyramid = ops.FeaturePyramidNetwork(channels, FPN_CHANNELS, extra_blocks=ops.LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = list(self.encoder(images).values())[self._skip :]
        pyramid: dict[str, Tensor] = self.pyramid(dict(zip(self.names, maps, strict=True)))
        return pyramid


class _Rescale(nn.Module):
    """Unit features at every position times learned factors, at first 0.88 on average over the channels: SSD's 20 for
    its 512 channels. Encoders differ in the size of their features, for which the loss would be far off at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.full((channels, 1, 1), 20 * math.sqrt(channels / 512)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1) * self.factors


def _halving(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.GroupNorm(32, 128),
        nn.ReLU(inplace=True),
        nn.Conv2d(128, 256, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(32, 256),
        nn.ReLU(inplace=True),
    )


def _first(strides: Sequence[int], finest: float) -> int:
    """The number of the first map that is not finer than `finest`, or else of the last."""
    return next((number for number, stride in enumerate(strides) if stride >= finest), len(strides) - 1)


def _normalisation(model: SplitModel) -> dict[str, list[float]]:
    if model.pixel_mean is None or model.pixel_std is None:
        # torchvision's detectors normalise in any case; one value stands for every channel, however many there are.
        return {"image_mean": [0.0], "image_std": [1.0]}
    return {"image_mean": model.pixel_mean.flatten().tolist(), "image_std": model.pixel_std.flatten().tolist()}


def _device(model: SplitModel) -> torch.device:
    return next(model.parameters()).device


def _check(num_classes: int, image_size: int) -> None:
    if num_classes < 2 or image_size < 16:
        raise ValueError(
            f"num_classes must be at least 2, the background being one, and image_size at least 16 pixels, got "
            f"num_classes={num_classes}, image_size={image_size}"
        )
