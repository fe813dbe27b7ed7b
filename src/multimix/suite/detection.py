"""Transfer to object detection (section 4.3, Table 5): a detector on each encoder, fine-tuned and tested on boxes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from torch import nn

from .. import detection
from ..data.boxes import BoxedImage
from ..data.source import Files
from ..detection.fine_tuning import Progress
from ..detection.images import Augment
from ..extras import require
from ..random import initialising, make_generator
from ..reports.section import Section
from ..training.checkpoint import CheckpointError
from ..training.progress import duration
from . import detection_page
from .boxes import read_boxes_once
from .detection_pictures import some_pictures
from .part import Legend, Part, Results, Subject
from .store import Store


class _Settings(NamedTuple):
    """The options that have another default for each detector."""

    image_size: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    augment: Literal["flip", "ssd"]


# The reference scripts of torchvision, whose Faster R-CNN has 26 epochs, which is the "2x" schedule.
_USUAL = {
    "ssd": _Settings(300, 120, 32, 0.002, 5e-4, "ssd"),
    "faster-rcnn": _Settings(800, 12, 16, 0.02, 1e-4, "flip"),
}


@dataclass(frozen=True, kw_only=True)
class Detection(Part):
    """Mean average precision of a detector that is fine-tuned from the classifier's encoder; takes long."""

    name: ClassVar[str] = "detection"

    boxes: Path | None = None
    """Folder of a detection set, Pascal VOC or COCO, with splits for training and for testing."""
    detector: Literal["ssd", "faster-rcnn"] = "ssd"
    """SSD, or Faster R-CNN with a feature pyramid."""
    train_split: str | None = None
    """Split to train on; default: the first whose name begins with trainval or train, of every year of Pascal VOC."""
    split: str | None = None
    """Split to test on; default: the first whose name begins with test or val."""
    image_size: int | None = None
    """Side of SSD's square images (default: 300 pixels), or shorter side of Faster R-CNN's (default: 800)."""
    epochs: int | None = None
    """Epochs of fine-tuning; default: 120 for SSD, 12 for Faster R-CNN."""
    batch_size: int | None = None
    """Images per step of fine-tuning; default: 32 for SSD, 16 for Faster R-CNN."""
    lr: float | None = None
    """Learning rate; default: 0.002 x batch size / 32 for SSD, 0.02 x batch size / 16 for Faster R-CNN."""
    weight_decay: float | None = None
    """Weight decay; default: 0.0005 for SSD, 0.0001 for Faster R-CNN."""
    augment: Literal["flip", "ssd"] | None = None
    """flip: mirroring; ssd: also colours, zooming out and crops, for long training. Default: ssd for SSD, else flip."""
    mixed_precision: bool = False
    """Compute the encoder in bfloat16 where that is safe, which is faster on GPUs."""
    frozen_stages: int = 0
    """Number of encoder stages, from the input on, that are not fine-tuned."""

    def __post_init__(self) -> None:
        if self.detector not in _USUAL:
            raise ValueError(f"detector must be {' or '.join(_USUAL)}, got {self.detector!r}")
        if self.augment not in (None, "flip", "ssd"):
            raise ValueError(f"augment must be flip or ssd, got {self.augment!r}")
        if self.frozen_stages < 0 or (self.image_size is not None and self.image_size < 16):
            raise ValueError(
                f"frozen_stages must be at least 0 and image_size at least 16, got {self.frozen_stages} and "
                f"{self.image_size}"
            )
        self._fine_tuning(seed=0)

    def files(self) -> dict[str, Files]:
        return {} if self.boxes is None else {"boxes": Files(self.boxes)}

    def check_files(self, image_size: int | None) -> None:
        """Look for a detection set with images to train on and others to test on."""
        self._read()
        require("pycocotools", "evaluate")

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """Average precision on the test images, the loss of every epoch, and some detections to look at.

        Raises:
            ValueError: no detection set, or one without images for training or testing, or with images for both; the
                model is no convolutional network; the loss is no longer finite.
            FileNotFoundError: a folder that is missing or has another layout.
        """
        checkpoint = store.path("detector.pt")
        result = store.compute("result", lambda: self._measure(subject, checkpoint, say))
        with contextlib.suppress(OSError):
            checkpoint.unlink()
        return result

    def _measure(self, subject: Subject, checkpoint: Path, say: Callable[[str], None]) -> dict[str, Any]:
        say(f"reading the boxes in {self.boxes}")
        train, test, skipped = self._read()
        trained, tested = ({box.name for image in of for box in image.boxes} for of in (train, test))
        classes = sorted(trained | tested)
        if skipped:
            warnings.warn(
                f"{len(skipped)} images or boxes of {self.boxes} are damaged and left out, such as {skipped[0]}; the "
                "page lists them",
                stacklevel=2,
            )
        if unseen := tested - trained:
            warnings.warn(
                f"no training image shows {', '.join(sorted(unseen))}, but test images do: their average "
                "precision is 0, and counts",
                stacklevel=2,
            )
        settings, tuning = self._settings(), self._fine_tuning(seed=subject.seed)

        def images(of: Sequence[BoxedImage], augment: Augment) -> detection.DetectionImages:
            return detection.DetectionImages(
                of,
                classes,
                augment=augment,
                size=settings.image_size if self.detector == "ssd" else None,
                grey=subject.test.channels == 1,
                seed=subject.seed,
                workers=subject.workers,
                device=subject.device,
            )

        def tuned() -> tuple[nn.Module, list[float]]:
            detector = self._detector(subject, 1 + len(classes), settings.image_size)
            losses = detection.fine_tune(
                detector,
                images(train, settings.augment),
                tuning,
                checkpoint=checkpoint,
                progress=lambda progress: say(_told(progress)),
            )
            return detector, losses

        try:
            detector, losses = tuned()
        except CheckpointError as error:
            warnings.warn(f"the fine-tuning starts again from its beginning: {error.__cause__ or error}", stacklevel=2)
            checkpoint.unlink(missing_ok=True)  # another evaluation may have removed it
            detector, losses = tuned()
        found = detection.detect(
            detector,
            images(test, "none"),
            batch_size=settings.batch_size,
            say=lambda done: say(f"testing the detector, image {done + 1} of {len(test)}"),
        )
        return {
            "set": self.boxes.resolve().name if self.boxes else "",
            "detector": self.detector,
            "train_images": len(train),
            "test_images": len(test),
            "skipped": skipped,
            "settings": {
                **asdict(tuning),
                "image_size": settings.image_size,
                "augment": settings.augment,
                "mixed_precision": self.mixed_precision,
                "frozen_stages": self.frozen_stages,
            },
            "losses": losses,
            **detection.average_precision(found, test, classes)._asdict(),
            "pictures": some_pictures(test, found, classes),
        }

    def _detector(self, subject: Subject, num_classes: int, image_size: int) -> nn.Module:
        make = detection.ssd if self.detector == "ssd" else detection.faster_rcnn
        with initialising(make_generator(subject.seed, "detector")):
            return make(
                subject.model,
                num_classes=num_classes,
                image_size=image_size,
                frozen_stages=self.frozen_stages,
                mixed_precision=self.mixed_precision,
            )

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        return {"detection mAP, % ↑": 100 * result["map"], "detection AP50, % ↑": 100 * result["map_50"]}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return detection_page.sections(results, legend.colors)

    def resolved(self) -> Self:
        """With everything that depends on the detector filled in."""
        boxes = None if self.boxes is None else self.boxes.expanduser().resolve()
        return replace(self, boxes=boxes, **self._settings()._asdict())

    def _settings(self) -> _Settings:
        """What was asked for, or else is usual; the usual learning rate is in proportion to the batch size."""
        given = {name: value for name in _Settings._fields if (value := getattr(self, name)) is not None}
        usual = _USUAL[self.detector]
        lr = usual.lr / usual.batch_size * max(1, given.get("batch_size", usual.batch_size))
        return usual._replace(**{"lr": lr, **given})

    def _fine_tuning(self, seed: int) -> detection.FineTuning:
        settings = self._settings()
        return detection.FineTuning(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            seed=seed,
        )

    def _read(self) -> tuple[list[BoxedImage], list[BoxedImage], list[str]]:
        """Images to train on and to test on, and what was left out."""
        if self.boxes is None:
            raise ValueError(
                "detection needs a set of images with boxes, Pascal VOC or COCO: give --detection.boxes DIR"
            )
        train = read_boxes_once(self.boxes, self.train_split, purpose="training")
        test = read_boxes_once(self.boxes, self.split)
        counted = (replace(image, boxes=tuple(b for b in image.boxes if not b.uncounted)) for image in train.images)
        usable = [image for image in counted if image.boxes]
        tested = [*test.images, *test.empty]
        # Splits may be links to one folder of images.
        both = {image.path.resolve() for image in usable} & {image.path.resolve() for image in tested}
        for purpose, images in (("train", usable), ("test", tested)):
            if not any(not box.uncounted for image in images for box in image.boxes):
                raise ValueError(f"{self.boxes} has no box to {purpose} on: all are marked as difficult or as a crowd")
        if both:
            raise ValueError(
                f"{len(both)} images of {self.boxes} would be trained on and tested on, such as {min(both).name}: "
                "choose --detection.train-split and --detection.split, after listing the images of each in "
                "ImageSets/Main/SPLIT.txt (Pascal VOC) or annotations/instances_SPLIT.json (COCO)"
            )
        return usable, tested, [*train.skipped, *test.skipped]


def _told(progress: Progress) -> str:
    return (
        f"fine-tuning, epoch {progress.epoch} of {progress.epochs}, loss {progress.loss:.2f}, "
        f"ends in about {duration(progress.seconds_left)}"
    )
