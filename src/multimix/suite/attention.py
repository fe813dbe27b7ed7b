"""Attention (Figure 6 of the paper): maps over images, and whether they point at objects where boxes are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import evaluation
from ..criteria.classifiers import class_weights
from ..data import pictures
from ..data.listing import image_files, require_folder
from ..data.source import Files
from ..evaluation.inference import evaluating
from ..files import printable
from ..reports.overlays import SIDE, data_uri, shrink
from ..reports.section import Section
from . import attention_page
from .batches import one_of_each
from .boxes import read_boxes_once, to_input
from .part import Legend, Part, Results, Subject
from .pointing import play_all
from .store import Store


@dataclass(frozen=True, kw_only=True)
class Attention(Part):
    """Attention maps over images, and the pointing game against boxes."""

    name: ClassVar[str] = "attention"

    kinds: tuple[str, ...] = evaluation.ATTENTIONS
    """Kinds of attention: gap-relu, gap-softmax, cam-relu, cam-softmax, uniform. The overview shows the first."""
    images: Path | None = None
    """Folder of the images to show with their attention maps; default: test images, one of each class."""
    count: int = 10
    """Number of images to show."""
    boxes: Path | None = None
    """Folder of a detection set, Pascal VOC or COCO, for the pointing game; images are resized to the model's size."""
    split: str | None = None
    """Split of --attention.boxes to use; all: every image. Default: test or validation, or all if there is neither."""
    tolerance: float = 0.0
    """Pixels by which a point may miss its box in the pointing game; published numbers on VOC and COCO have 15."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in evaluation.ATTENTIONS]
        if unknown or not self.kinds:
            raise ValueError(
                f"kinds must be some of {', '.join(evaluation.ATTENTIONS)}, got {', '.join(unknown) or 'none'}"
            )
        if self.count < 1 or not self.tolerance >= 0:
            raise ValueError(
                f"count must be at least 1 and tolerance at least 0, got {self.count} and {self.tolerance}"
            )

    def files(self) -> dict[str, Files]:
        named = {"images": self.images, "boxes": self.boxes}
        return {name: Files(path) for name, path in named.items() if path is not None}

    def check_files(self, image_size: int | None) -> None:
        """Look for images to show, and for a detection set with boxes."""
        if self.images is not None:
            _files_to_show(self.images)
        if self.boxes is not None:
            read_boxes_once(self.boxes, self.split)

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """Small images with their maps, and by kind of attention the pointing game for every image.

        Raises:
            ValueError: the model has no spatial positions, or no image with a usable box.
            FileNotFoundError: a folder that is missing or has another layout.
        """
        kinds, left_out = self._possible(subject)
        say("attention over images")
        shown = store.compute("pictures", lambda: self._pictures(subject, kinds))
        found: dict[str, Any] = {"kinds": list(kinds), "left_out": left_out, "pictures": shown, "pointing": None}
        if self.boxes is not None:
            found["pointing"] = play_all(
                subject, self.boxes, self.split, kinds=kinds, tolerance=self.tolerance, store=store, say=say
            )
        return found

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        if result["pointing"] is None:
            return {}
        hits = result["pointing"]["hit"][result["kinds"][0]]
        return {"pointing game, % ↑": 100 * sum(hits) / len(hits)}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return attention_page.sections(results, legend.colors)

    def _possible(self, subject: Subject) -> tuple[tuple[str, ...], str]:
        """The kinds that the model allows, and why not the others."""
        try:
            class_weights(subject.model.classifier)
        except ValueError as error:
            kinds = tuple(kind for kind in self.kinds if not kind.startswith("cam"))
            if not kinds:
                raise
            return kinds, "" if kinds == self.kinds else str(error)
        return self.kinds, ""

    def _pictures(self, subject: Subject, kinds: Sequence[str]) -> list[dict[str, Any]]:
        images, names, labels = self._shown(subject)
        with evaluating(subject.model):
            features = subject.model.features(images.to(subject.device))
            predicted = subject.model.head(features).argmax(dim=1)
            targets = predicted if labels is None else labels.to(subject.device)
            maps = evaluation.attention_maps(subject.model, features, targets, kinds)
        return [
            {
                "name": name,
                "predicted": str(subject.class_names[int(predicted[k])]),
                "image": _small(images[k].cpu()),
                "maps": {kind: _rounded(a[k]) for kind, a in maps.items()},
            }
            for k, name in enumerate(names)
        ]

    def _shown(self, subject: Subject) -> tuple[Tensor, list[str], Tensor | None]:
        """Images, their names and, where they are known, their classes."""
        if self.images is None:
            chosen = one_of_each(subject.test.labels, self.count)
            batches = list(subject.loader(subset=chosen).batches(0))
            labels = torch.cat([batch.targets for batch in batches])
            names = [str(subject.class_names[label]) for label in labels.tolist()]
            return torch.cat([batch.images for batch in batches]), names, labels
        files = _files_to_show(self.images)[: self.count]
        read = [
            pictures.pixels(pictures.fit(pictures.read(file), subject.image_size, subject.resize)) for file in files
        ]
        return to_input(torch.stack(read), subject), [printable(file.stem) for file in files], None


def _files_to_show(folder: Path) -> list[Path]:
    folder = folder.expanduser()
    require_folder(folder, "images")
    files = image_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds no images to show: give another folder with --attention.images")
    return [folder / file for file in files]


def _rounded(a: Tensor) -> list[list[float]]:
    """A map for JSON; what is shown of it has 256 shades."""
    return [[float(f"{value:.4g}") for value in row] for row in a.tolist()]


def _small(image: Tensor) -> str:
    small = shrink(image)
    # Of photographs, PNG files are several times as large; of few pixels, every one is seen.
    return data_uri(small, lossless=small.shape[-1] < SIDE)
