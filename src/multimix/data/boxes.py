"""Bounding boxes in the layouts of Pascal VOC and COCO."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor

from ..files import printable
from .listing import EXTENSIONS, require_folder
from .pictures import UnreadableImageError, is_readable, side
from .survey import for_each, once

__all__ = ["BoxedImage", "BoxedImages", "NamedBox", "Purpose", "read_boxes"]

Purpose = Literal["testing", "training"]

_LAYOUTS = (
    "Annotations/*.xml beside JPEGImages/ (Pascal VOC; ImageSets/Main/SPLIT.txt names the images of a split), or "
    "annotations/instances_SPLIT.json beside SPLIT/ (COCO)"
)


class NamedBox(NamedTuple):
    """The box of an object: class name, and edges in pixels; the first pixel covers 0 to 1."""

    name: str
    left: float
    top: float
    right: float
    bottom: float
    uncounted: bool = False
    """Marked as difficult (Pascal VOC) or as a crowd (COCO): finding it is neither right nor wrong for a detector."""

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        return self.left, self.top, self.right, self.bottom


@dataclass(frozen=True)
class BoxedImage:
    """An image file and its boxes, all of which have an area inside the image."""

    path: Path
    height: int
    width: int
    boxes: tuple[NamedBox, ...]


@dataclass(frozen=True)
class BoxedImages:
    """What `read_boxes` found."""

    images: tuple[BoxedImage, ...]
    """Those with boxes."""
    empty: tuple[BoxedImage, ...]
    """Further images, without a single box."""
    skipped: tuple[str, ...]
    """Boxes and images that were left out as damaged, each with the reason."""


def read_boxes(folder: Path, split: str | None = None, *, purpose: Purpose = "testing") -> BoxedImages:
    """The images and boxes of a detection set.

    In Pascal VOC, whose pixels count from 1 and belong to the box up to both ends, a box covers xmin - 1 to xmax.
    Boxes are cut to their image; those that have no area then are left out, and so are images that are missing,
    unreadable or of another size than annotated. Objects marked as difficult or as a crowd are kept.

    Args:
        folder: holds the set, or VOCdevkit/VOC*/. Of several years of VOC, the first is for testing, and all are for
            training: "VOC07+12" of the literature.
        split: as the files of the set name it ("test", "val2017"); "all" takes all. Default: for testing one that is
            called test or val..., for training trainval or train..., or else all images.
        purpose: what the images are for.

    Raises:
        FileNotFoundError: no such folder, or none of the two layouts in it.
        ValueError: an unknown split, an unreadable annotation file, or no image with a box.
    """
    folder = folder.expanduser()
    require_folder(folder, f"a detection set: {_LAYOUTS}")
    places = (folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*")))
    years = [place for place in places if any((place / "Annotations").glob("*.xml"))]
    wanted = ("trainval", "train") if purpose == "training" else ("test", "val")
    records: Iterable[_Record]
    if years:
        used = years if purpose == "training" else years[:1]
        records = itertools.chain.from_iterable(_voc(year, split, wanted) for year in used)
    elif any((folder / "annotations").glob("instances_*.json")):
        records = _coco(folder, split, wanted)
    else:
        raise FileNotFoundError(f"{folder} holds no boxes: expected {_LAYOUTS}")
    return _checked(records, folder, f"for {purpose}, {split=}")


class _Record(NamedTuple):
    """An image as annotated."""

    path: Path
    size: tuple[Any, Any]
    """Width and height; None or 0 where they are not annotated."""
    boxes: list[NamedBox]
    trouble: list[str]


def _checked(records: Iterable[_Record], folder: Path, what: str) -> BoxedImages:
    images: list[BoxedImage] = []
    empty: list[BoxedImage] = []
    skipped: list[str] = []
    records = list(records)
    sides = _sides([record.path for record in records], folder, f"sides {what}")
    for (path, size, boxes, trouble), found in zip(records, sides, strict=True):
        skipped += trouble
        if found is None:
            skipped.append(f"{path.name}: the image is {'unreadable' if path.exists() else 'missing'}")
            continue
        width, height = found
        if all(size) and tuple(size) != (width, height):
            annotated = f"{size[0]} x {size[1]}"
            skipped.append(f"{path.name}: annotated as {annotated} pixels, but it has {width} x {height}")
            continue
        kept = []
        for box in boxes:
            cut = box._replace(
                left=max(box.left, 0.0),
                top=max(box.top, 0.0),
                right=min(box.right, width),
                bottom=min(box.bottom, height),
            )
            if cut.left < cut.right and cut.top < cut.bottom:
                kept.append(cut)
            else:
                edges = ", ".join(f"{edge:g}" for edge in box.edges)
                skipped.append(f"{path.name}: the box {box.name} ({edges}) has no area inside the image")
        (images if kept else empty).append(BoxedImage(path, height, width, tuple(kept)))
    if not images:
        reasons = f": {'; '.join(skipped[:3])}" if skipped else ""
        raise ValueError(f"{folder} holds no image with a usable box {what}{reasons}")
    return BoxedImages(tuple(images), tuple(empty), tuple(map(printable, skipped)))


def _sides(paths: Sequence[Path], folder: Path, what: str) -> list[tuple[int, int] | None]:
    """Width and height of each image; None where it is missing or damaged."""

    def sides(index: int) -> tuple[int, int]:
        try:
            return side(paths[index], upright=False) if is_readable(paths[index]) else (0, 0)
        except UnreadableImageError:
            return 0, 0

    def build() -> dict[str, Tensor]:
        return {"sides": torch.tensor(for_each(sides, paths, f"checking {folder}"), device="cpu")}

    found = once(folder, [os.path.relpath(path, folder) for path in paths], what, build)
    return [(width, height) if width else None for width, height in found["sides"].tolist()]


def _voc(root: Path, split: str | None, wanted: Sequence[str]) -> Iterator[_Record]:
    # Files with an underscore name the images of a split that show one class.
    lists = {path.stem: path for path in sorted((root / "ImageSets" / "Main").glob("*.txt")) if "_" not in path.stem}
    chosen = _choose(split, wanted, list(lists), root)
    files = sorted((root / "Annotations").glob("*.xml"))
    if chosen is not None:
        lines = _lines(lists[chosen])
        files = [_annotation(root, line) for line in lines]
    for file in files:
        yield _voc_record(root, file)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the split in {file}: {error}: save it as UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _annotation(root: Path, line: str) -> Path:
    """The file that a line of a split names: a name, which may have spaces, or a name and a mark."""
    whole = root / "Annotations" / f"{line}.xml"
    return whole if whole.is_file() else whole.with_name(f"{line.split()[0]}.xml")


def _voc_record(root: Path, file: Path) -> _Record:
    try:
        tree = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise ValueError(f"{file} is missing, but the list of the split names it: restore it") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"cannot read the boxes in {file}: {error}: repair or remove the file") from None
    # Names within the file are often those before the set was made.
    candidates = [root / "JPEGImages" / f"{file.stem}{ending}" for ending in EXTENSIONS]
    candidates.append(root / "JPEGImages" / (tree.findtext("filename") or candidates[0].name).strip())
    path = next((path for path in candidates if path.is_file()), candidates[0])
    boxes, trouble = [], []
    for thing in tree.findall("object"):
        name = (thing.findtext("name") or "object").strip()
        try:
            xmin, ymin, xmax, ymax = (_number(thing.findtext(f"bndbox/{key}")) for key in _CORNERS)
        except ValueError as error:
            trouble.append(f"{path.name}: the box {name} is damaged: {error}")
            continue
        if xmax <= xmin or ymax <= ymin:
            trouble.append(f"{path.name}: the box {name} ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}) has no area")
            continue
        difficult = (thing.findtext("difficult") or "0").strip() not in ("0", "")
        boxes.append(NamedBox(name, xmin - 1, ymin - 1, xmax, ymax, difficult))
    try:
        size = tuple(int(_number(tree.findtext(f"size/{key}") or 0)) for key in ("width", "height"))
    except ValueError:
        size = (0, 0)
    return _Record(path, (size[0], size[1]), boxes, trouble)


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _coco(folder: Path, split: str | None, wanted: Sequence[str]) -> Iterator[_Record]:
    lists = {path.stem.removeprefix("instances_"): path for path in sorted(folder.glob("annotations/instances_*.json"))}
    chosen = _choose(split, wanted, list(lists), folder)
    for name in lists if chosen is None else [chosen]:
        yield from _coco_split(folder / name, lists[name])


def _coco_split(images: Path, file: Path) -> list[_Record]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        classes = {category["id"]: str(category["name"]) for category in content["categories"]}
        records = {
            image["id"]: _Record(images / str(image["file_name"]), (image.get("width"), image.get("height")), [], [])
            for image in content["images"]
        }
        annotations = [(records[one["image_id"]], classes[one["category_id"]], one) for one in content["annotations"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = _missing(error) if isinstance(error, KeyError) else error
        raise ValueError(
            f"cannot read the boxes in {file}: {what}: it must be a COCO file with images, annotations and categories"
        ) from None
    for record, name, one in annotations:
        try:
            left, top, width, height = map(_number, one["bbox"])
        except (ValueError, TypeError, KeyError) as error:
            what = "it has no bbox" if isinstance(error, KeyError) else error
            record.trouble.append(f"{record.path.name}: the box {name} is damaged: {what}")
            continue
        crowd = bool(one.get("iscrowd"))
        record.boxes.append(NamedBox(name, left, top, left + width, top + height, crowd))
    return list(records.values())


def _missing(error: KeyError) -> str:
    """Fields have names, identifiers are numbers."""
    field = isinstance(error.args[0], str)
    return f"no {error}" if field else f"an annotation of the unknown image or category {error}"


def _choose(split: str | None, wanted: Sequence[str], known: Sequence[str], folder: Path) -> str | None:
    """The split to read, by default one whose name begins as wanted; None for all images."""
    if split == "all":
        return None
    if split is not None:
        if split not in known:
            raise ValueError(f"{folder} has no split {split!r}: choose {', '.join((*known, 'all'))}")
        return split
    found = [name for start in wanted for name in known if name.startswith(start)]
    return found[0] if found else None


def _number(text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no number")
    return value
