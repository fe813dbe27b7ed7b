"""Average precision against loops written from its definition, and detections in pixels of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from multimix.data.boxes import BoxedImage, NamedBox
from multimix.detection import DetectionImages, average_precision, detect

NAMES = ["cat", "dog", "unseen"]


def boxed(*boxes: NamedBox) -> BoxedImage:
    return BoxedImage(Path(), 100, 100, boxes)


def detections(*rows: tuple[str, float, tuple[float, ...]]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([edges for _, _, edges in rows], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([1 + NAMES.index(name) for name, _, _ in rows], dtype=torch.int64),
        "scores": torch.tensor([score for _, score, _ in rows]),
    }


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def by_definition(found: list[dict[str, Tensor]], images: list[BoxedImage], name: str, needed: float) -> float:
    """Greedy matching by score in each image, then the mean over 101 recalls of the best precision from there on."""
    hits = []
    total = sum(box.name == name for image in images for box in image.boxes)
    for one, image in zip(found, images, strict=True):
        free = [box.edges for box in image.boxes if box.name == name]
        mine = (one["labels"] == 1 + NAMES.index(name)).nonzero().flatten().tolist()
        for k in sorted(mine, key=lambda k: -one["scores"][k].item()):
            edges = tuple(one["boxes"][k].tolist())
            best = max(free, key=lambda box: overlap(edges, box), default=None)
            hit = best is not None and overlap(edges, best) >= needed
            if hit and best is not None:
                free.remove(best)
            hits.append((one["scores"][k].item(), hit))
    curve, right = [], 0
    for number, (_, hit) in enumerate(sorted(hits, key=lambda row: -row[0]), start=1):
        right += hit
        curve.append((right / total, right / number))
    levels = [k / 100 for k in range(101)]
    return sum(max((p for r, p in curve if r >= level - 1e-12), default=0.0) for level in levels) / 101


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_its_definition(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def some(names: list[str]) -> list[tuple[str, tuple[float, ...]]]:
        corners = 60 * torch.rand(len(names), 2, generator=g)
        sides = 10 + 30 * torch.rand(len(names), 2, generator=g)
        return list(zip(names, map(tuple, torch.cat([corners, corners + sides], 1).tolist()), strict=True))

    # Numbers that share no factor with 100, so that no recall falls on a level, where rounding would decide.
    names = ["cat"] * 29 + ["dog"] * 19
    images, found = [], []
    for order in torch.randperm(48, generator=g).split(4):
        things = some([names[k] for k in order])
        images.append(boxed(*(NamedBox(name, *edges) for name, edges in things)))
        moved = [
            (name, tuple((torch.tensor(edges) + 4 * torch.randn(4, generator=g)).tolist())) for name, edges in things
        ]
        nowhere = some(["cat", "dog", "dog"])
        rows = [(name, torch.rand((), generator=g).item(), edges) for name, edges in [*moved, *nowhere]]
        found.append(detections(*(row for row in rows if row[2][0] < row[2][2] and row[2][1] < row[2][3])))
    result = average_precision(found, images, NAMES)
    for name in ("cat", "dog"):
        assert result.per_class_50[name] == pytest.approx(by_definition(found, images, name, 0.5), abs=1e-6)
        over = [by_definition(found, images, name, 0.5 + 0.05 * k) for k in range(10)]
        assert result.per_class[name] == pytest.approx(sum(over) / 10, abs=1e-6)
    assert set(result.per_class) == {"cat", "dog"}
    assert result.map == pytest.approx(sum(result.per_class.values()) / 2, abs=1e-6)
    assert result.map_50 == pytest.approx(sum(result.per_class_50.values()) / 2, abs=1e-6)
    strict = [by_definition(found, images, name, 0.75) for name in ("cat", "dog")]
    assert result.map_75 == pytest.approx(sum(strict) / 2, abs=1e-6)


def test_boxes_that_do_not_count_are_neither_missed_nor_false() -> None:
    counted, other = (0.0, 0.0, 20.0, 20.0), (50.0, 50.0, 90.0, 90.0)
    image = boxed(NamedBox("cat", *counted), NamedBox("cat", *other, uncounted=True))
    right = ("cat", 0.5, counted)
    for found in ([right], [right, ("cat", 0.9, other)]):
        assert average_precision([detections(*found)], [image], NAMES).map == pytest.approx(1)
    # Where nothing is, a more certain detection is false.
    false = ("cat", 0.9, (0.0, 60.0, 20.0, 90.0))
    assert average_precision([detections(right, false)], [image], NAMES).map == pytest.approx(0.5)


def test_detections_in_images_without_boxes_are_false() -> None:
    images = [boxed(NamedBox("dog", 0, 0, 20, 20)), boxed()]
    found = [detections(("dog", 0.5, (0, 0, 20, 20))), detections(("dog", 0.9, (0, 0, 20, 20)))]
    assert average_precision(found, images, NAMES).map == pytest.approx(0.5)
    assert average_precision([found[0], detections()], images, NAMES).map == pytest.approx(1)


def test_a_hundred_detections_of_an_image_count() -> None:
    """Of twelve objects in one image, all are found, after eighty-eight more certain detections of nothing."""
    edges = [(8.0 * k, 0.0, 8.0 * k + 6, 6.0) for k in range(12)]
    false = [("cat", 0.9, (0.0, 20.0 + 0.5 * k, 5.0, 30.0 + 0.5 * k)) for k in range(88)]
    right = [("cat", 0.5 - 0.01 * k, box) for k, box in enumerate(edges)]
    images, found = [boxed(*(NamedBox("cat", *box) for box in edges))], [detections(*false, *right)]
    result = average_precision(found, images, NAMES)
    assert result.per_class_50["cat"] == pytest.approx(by_definition(found, images, "cat", 0.5), abs=1e-6)
    assert result.per_class["cat"] == pytest.approx(result.map) == pytest.approx(12 / 100)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 0 and 1 images"):
        average_precision([], [boxed(NamedBox("cat", 0, 0, 9, 9))], NAMES)
    with pytest.raises(ValueError, match=r"got none that counts"):
        average_precision([detections()], [boxed(NamedBox("cat", 0, 0, 9, 9, uncounted=True))], NAMES)


class WholeImage(nn.Module):
    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        one = torch.tensor([1])
        return [{"boxes": torch.tensor([[0.0, 0, *x.shape[:0:-1]]]), "labels": one, "scores": one} for x in images]


@pytest.mark.parametrize("size", [None, 32])
def test_detections_are_in_pixels_of_the_file(size: int | None, tmp_path: Path) -> None:
    images = []
    for k, (width, height) in enumerate([(50, 20), (16, 40), (30, 30)]):
        Image.new("RGB", (width, height)).save(tmp_path / f"{k}.png")
        images.append(BoxedImage(tmp_path / f"{k}.png", height, width, ()))
    said: list[int] = []
    detector = WholeImage()
    found = detect(detector, DetectionImages(images, NAMES, size=size), batch_size=2, say=said.append)
    assert [one["boxes"].tolist() for one in found] == [[[0, 0, 50, 20]], [[0, 0, 16, 40]], [[0, 0, 30, 30]]]
    assert said == [0, 2]
    assert detector.training
