"""The pointing game of a classifier on a detection set, image by image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import evaluation
from ..data import pictures
from ..data.boxes import BoxedImage
from ..evaluation.inference import evaluating
from ..extras import require
from .boxes import read_boxes_once, to_input
from .part import Subject
from .store import Store

__all__ = ["play_all"]

CHUNK = 32
"""Images between two savings."""


def play_all(
    subject: Subject,
    folder: Path,
    split: str | None,
    *,
    kinds: Sequence[str],
    tolerance: float,
    store: Store,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """By kind of attention, the mean of `hit` and `energy` over the classes in each image; the baselines too.

    Where the model knows classes of the set by name, each of those in an image is asked for by itself, against its own
    boxes; images without them are left out. Else the model's prediction is asked for, against all boxes.

    Raises:
        As `read_boxes`.
    """
    say(f"reading the boxes in {folder}")
    boxed = read_boxes_once(folder, split)
    index = {_plain(str(name)): k for k, name in enumerate(subject.class_names)}
    index = {name: k for name, k in index.items() if name in _classes(boxed.images)}
    usable = [image for image in boxed.images if not index or _classes([image]) & index.keys()]
    rows: list[dict[str, Any]] = []
    for start in range(0, len(usable), CHUNK):
        part = usable[start : start + CHUNK]
        say(f"pointing game, image {start + 1} of {len(usable)}")
        job = functools.partial(_play, subject, part, index, kinds, tolerance)
        rows += store.compute(f"boxes, images {start} to {start + len(part)}", job)
    return {
        "set": folder.expanduser().resolve().name,
        "images": len(usable),
        "without_boxes": len(boxed.empty),
        "unknown_classes": len(boxed.images) - len(usable),
        "skipped": list(boxed.skipped),
        "classes": sorted(index),
        "tolerance": tolerance,
        **{key: {kind: [row[key][kind] for row in rows] for kind in kinds} for key in ("hit", "energy")},
        **{key: [row[key] for row in rows] for key in ("chance", "area", "center")},
    }


def _play(
    subject: Subject,
    images: Sequence[BoxedImage],
    index: Mapping[str, int],
    kinds: Sequence[str],
    tolerance: float,
) -> list[dict[str, Any]]:
    size = subject.image_size
    # The whole image, even if it is not square: no object is cut off, and the map is stretched back over it.
    smooth = require("PIL.Image", "train").Resampling.BILINEAR
    whole = (pictures.read(one.path, upright=False).resize((size, size), smooth) for one in images)
    pixels = torch.stack([pictures.pixels(picture) for picture in whole])
    with evaluating(subject.model):
        features = subject.model.features(to_input(pixels, subject).to(subject.device))
        predicted = subject.model.head(features).argmax(dim=1).tolist()
        owners, targets, boxes = [], [], []
        for k, image in enumerate(images):
            wanted: list[str | None] = [*sorted(_classes([image]) & index.keys())]
            for name in wanted or [None]:
                owners.append(k)
                targets.append(predicted[k] if name is None else index[name])
                boxes.append([box.edges for box in image.boxes if name in (None, _plain(box.name))])
        maps = evaluation.attention_maps(
            subject.model, features[owners], torch.tensor(targets, device=subject.device), kinds
        )
    game = evaluation.pointing_game(
        torch.stack([maps[kind] for kind in kinds], dim=1).cpu(),
        boxes,
        [(images[k].height, images[k].width) for k in owners],
        tolerance=tolerance,
    )
    owner = torch.tensor(owners)
    rows = []
    for k in range(len(images)):
        mean = {key: values[owner == k].mean(dim=0).tolist() for key, values in game._asdict().items()}
        rows.append(mean | {key: dict(zip(kinds, mean[key], strict=True)) for key in ("hit", "energy")})
    return rows


def _classes(images: Iterable[BoxedImage]) -> set[str]:
    return {_plain(box.name) for image in images for box in image.boxes}


def _plain(name: str) -> str:
    """Class names of different sets, made comparable.

    >>> _plain("Aquarium_Fish")
    'aquarium fish'
    """
    return name.replace("_", " ").strip().casefold()
