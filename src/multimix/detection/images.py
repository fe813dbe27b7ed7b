"""Images with boxes as detectors take them, augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..data import pictures
from ..data.augmentation import to_float
from ..data.boxes import BoxedImage
from ..data.readers import WorkerReader
from ..extras import require
from ..random import derive_seed, lending

__all__ = ["Augment", "DetectionImages"]

Augment = Literal["none", "flip", "ssd"]
SMALLEST_CUT = 16
"""Side in pixels of the smallest images that are cut."""


class _Example(NamedTuple):
    pixels: Tensor
    boxes: Tensor
    labels: Tensor


class DetectionImages:
    """Batches of a detection set.

    Args:
        images: what `multimix.data.boxes.read_boxes` found.
        class_names: of classes 1, 2, ...; 0 is the background.
        augment: "flip" mirrors every second image; "ssd" also distorts colours, zooms out and crops around boxes, as
            SSD's authors do.
        size: images are stretched to squares of this side, smoothly, after the augmentation; None leaves them as they
            are.
        grey: images have one channel, as the classifier's had.
        seed: of the augmentation; an example looks the same in an epoch, whatever the batch and the workers.
        workers: decoding processes; 0 decodes in this process.
        device: where batches are wanted.
    """

    def __init__(
        self,
        images: Sequence[BoxedImage],
        class_names: Sequence[str],
        *,
        augment: Augment = "none",
        size: int | None = None,
        grey: bool = False,
        seed: int = 0,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if augment not in get_args(Augment):
            raise ValueError(f"augment must be one of {', '.join(get_args(Augment))}, got {augment!r}")
        self.images, self.size = images, size
        self._device = torch.device(device)
        decoder = _Decoder(images, class_names, augment=augment, size=size, grey=grey, seed=seed)
        self._reader = WorkerReader(decoder.example, list, seed=seed, workers=workers, pin=self._device.type == "cuda")

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, epoch: int, shares: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        """For each share of example indices, float images (channels, h, w) in [0, 1] and targets with `boxes`
        (k, 4: left, top, right, bottom in pixels) and `labels` (k,), as torchvision's detectors take them.

        Raises:
            As `WorkerReader.read`.
        """
        for batch in self._reader.read(epoch, list(shares)):
            there = [_Example(*(tensor.to(self._device, non_blocking=True) for tensor in one)) for one in batch]
            images = [to_float(one.pixels) for one in there]
            yield images, [{"boxes": one.boxes, "labels": one.labels} for one in there]


class _Decoder:
    def __init__(
        self,
        images: Sequence[BoxedImage],
        class_names: Sequence[str],
        *,
        augment: Augment,
        size: int | None,
        grey: bool,
        seed: int,
    ) -> None:
        self._images, self._seed = images, seed
        self._number = {name: number for number, name in enumerate(class_names, start=1)}
        self._transform = _transform(augment, size, grey)
        self._gentle = _transform("flip" if augment == "ssd" else augment, size, grey)

    def example(self, epoch: int, index: int) -> _Example:
        image = self._images[index]
        tv = require("torchvision.tv_tensors", "train")
        pixels = pictures.pixels(pictures.read(image.path, upright=False))
        edges = torch.tensor([box.edges for box in image.boxes]).reshape(-1, 4)
        target = {
            "boxes": tv.BoundingBoxes(edges, format="XYXY", canvas_size=(image.height, image.width)),
            "labels": torch.tensor([self._number[box.name] for box in image.boxes], dtype=torch.int64),
        }
        # A crop of a few pixels may have none.
        transform = self._transform if min(image.height, image.width) >= SMALLEST_CUT else self._gentle
        # The transforms draw from the global generator.
        with lending(derive_seed(self._seed, epoch, index, "augment boxes")):
            pixels, target = transform(tv.Image(pixels), target)
        return _Example(pixels.as_subclass(torch.Tensor), target["boxes"].as_subclass(torch.Tensor), target["labels"])


def _transform(augment: Augment, size: int | None, grey: bool) -> Callable[..., Any]:
    v2 = require("torchvision.transforms.v2", "train")
    steps: list[Any] = []
    if augment == "ssd":
        # Filled with the mean of ImageNet's pixels, as SSD's authors do; crops leave some object.
        steps += [v2.RandomZoomOut(fill=[123, 117, 104]), v2.RandomIoUCrop()]
    if augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    if size is not None:
        steps.append(v2.Resize((size, size), antialias=True))
    if augment == "ssd":
        # Colours last, when there are fewest pixels: it is by far the slowest step.
        steps += [v2.SanitizeBoundingBoxes(), v2.RandomPhotometricDistort()]
    if grey:
        steps.append(v2.Grayscale())
    transform: Callable[..., Any] = v2.Compose([v2.Identity(), *steps])
    return transform
