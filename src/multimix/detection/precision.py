"""Mean average precision of a detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.boxes import BoxedImage
from ..evaluation.inference import evaluating
from ..extras import require
from .images import DetectionImages

__all__ = ["AveragePrecision", "Detections", "average_precision", "detect"]

Detections = Mapping[str, Tensor]
"""Of one image: `boxes` (k, 4: left, top, right, bottom in pixels), `labels` (k,) from 1 on and `scores` (k,)."""


class AveragePrecision(NamedTuple):
    """Average precision in [0, 1]: the mean precision over 101 levels of recall, as COCO defines it."""

    map: float
    """Mean over classes and over the overlaps 0.50, 0.55, ..., 0.95 (intersection over union) that a hit needs."""
    map_50: float
    """Mean over classes, at an overlap of 0.5: Pascal VOC's criterion, up to the levels of recall."""
    map_75: float
    per_class: dict[str, float]
    """By name, over the overlaps; classes without an object in the images are left out."""
    per_class_50: dict[str, float]


def average_precision(
    detections: Sequence[Detections], images: Sequence[BoxedImage], class_names: Sequence[str]
) -> AveragePrecision:
    """Average precision of detections in images with known boxes, by COCO's own evaluation.

    Boxes marked as difficult or as a crowd count neither as missed nor, when they are found, as false.

    Args:
        detections: of every image, in pixels of the file.
        images: what `multimix.data.boxes.read_boxes` found, those without boxes too.
        class_names: of classes 1, 2, ...

    Raises:
        ValueError: not one list of detections for each image, or no box that counts.
        ImportError: torchmetrics or pycocotools is not installed.

    >>> from pathlib import Path
    >>> from multimix.data.boxes import NamedBox
    >>> image = BoxedImage(Path(), 50, 50, (NamedBox("cat", 0, 0, 20, 20), NamedBox("cat", 30, 30, 50, 50)))
    >>> found = {"boxes": torch.tensor([[0.0, 0, 20, 20]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    >>> round(average_precision([found], [image], ["cat"]).map, 3)  # half of the recall, at full precision
    0.505
    """
    if len(detections) != len(images):
        raise ValueError(
            f"needs the detections in every image, got {len(detections)} and {len(images)} images: use an empty one "
            "for an image in which nothing is found"
        )
    if not any(not box.uncounted for image in images for box in image.boxes):
        raise ValueError("needs images with boxes, got none that counts: all are marked as difficult or as a crowd")
    require("pycocotools", "evaluate")
    metric = require("torchmetrics.detection.mean_ap", "evaluate").MeanAveragePrecision(
        box_format="xyxy", iou_type="bbox", extended_summary=True
    )
    # An SSD gives up to 200; COCO counts the 100 with the highest scores.
    metric.warn_on_many_detections = False
    number = {name: k for k, name in enumerate(class_names, start=1)}
    for found, image in zip(detections, images, strict=True):
        target = {
            "boxes": torch.tensor([box.edges for box in image.boxes]).reshape(-1, 4),
            "labels": torch.tensor([number[box.name] for box in image.boxes], dtype=torch.int64),
            "iscrowd": torch.tensor([box.uncounted for box in image.boxes], dtype=torch.int64),
        }
        metric.update([{key: value.detach().cpu() for key, value in found.items()}], [target])
    result = metric.compute()
    # (overlaps, levels of recall, classes, sizes of objects, limits of detections): the last limit is the largest.
    precision = result["precision"][:, :, :, 0, -1].double()
    precision = torch.where(precision < 0, math.nan, precision).mean(dim=1)
    names = [class_names[k - 1] for k in result["classes"].reshape(-1).tolist()]
    return AveragePrecision(
        result["map"].item(),
        result["map_50"].item(),
        result["map_75"].item(),
        per_class=_known(names, precision.mean(dim=0)),
        per_class_50=_known(names, precision[0]),
    )


def _known(names: Sequence[str], values: Tensor) -> dict[str, float]:
    return {name: value for name, value in zip(names, values.tolist(), strict=True) if not math.isnan(value)}


def detect(
    detector: nn.Module,
    images: DetectionImages,
    *,
    batch_size: int,
    say: Callable[[int], None] = lambda done: None,
) -> list[Detections]:
    """What a detector of torchvision finds in every image, in order; on the CPU, with boxes in pixels of the file.

    Args:
        say: called with the number of images done, before every batch.
    """
    found: list[Detections] = []
    with evaluating(detector):
        for batch, _ in images.batches(0, torch.arange(len(images)).split(batch_size)):
            say(len(found))
            found += [{key: value.cpu() for key, value in one.items()} for one in detector(batch)]
    return [_to_file(one, image, images.size) for one, image in zip(found, images.images, strict=True)]


def _to_file(found: Detections, image: BoxedImage, size: int | None) -> Detections:
    if size is None:
        return found
    stretch = torch.tensor([image.width, image.height, image.width, image.height]) / size
    return {**found, "boxes": found["boxes"] * stretch}
