"""Detection sets, written by hand in both layouts, sound and damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from multimix.data import boxes, progress
from multimix.data.boxes import NamedBox, read_boxes


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def voc(root: Path, name: str, things: str, *, size: tuple[int, int] | None = (40, 30), image: bool = True) -> None:
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    told = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>before.jpg</filename>{told}{things}</annotation>"
    )
    if image:
        picture(root / "JPEGImages" / f"{name}.jpg")


def thing(name: str, *corners: object) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{key}>{corner}</{key}>" for key, corner in zip(keys, corners, strict=False))
    return f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>"


def coco(root: Path, split: str, boxes: Mapping[str, Sequence[Any]], **further: Any) -> None:
    images = [{"id": k, "file_name": name, "width": 40, "height": 30} for k, name in enumerate(boxes)]
    annotations = [
        {"id": 1, "image_id": k, "category_id": 7, "bbox": box}
        for k, found in enumerate(boxes.values())
        for box in found
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "cat"}]} | further
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for name in boxes:
        picture(root / split / name)


@pytest.mark.parametrize("inside", ["", "VOC2012", "VOCdevkit/VOC2007"])
def test_pascal_voc_counts_from_one_and_both_ends_belong_to_the_box(tmp_path: Path, inside: str) -> None:
    root = tmp_path / inside
    voc(root, "b", thing("cat", 1, 1, 40, 30) + thing("dog", 3, "2.5", 8, 9))
    voc(root, "a", "")
    # A part of an object has a box of its own, which is none of an object.
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    voc(root, "c", thing("person", 0, 0, 50, 20).replace("</object>", part), size=None)
    found = read_boxes(tmp_path)
    assert [(image.path.name, image.width, image.height) for image in found.images] == [
        ("b.jpg", 40, 30), ("c.jpg", 40, 30)
    ]  # fmt: skip
    assert found.images[0].boxes == (NamedBox("cat", 0, 0, 40, 30), NamedBox("dog", 2, 1.5, 8, 9))
    assert found.images[1].boxes == (NamedBox("person", 0, 0, 40, 20),)
    assert [(image.path.name, image.boxes) for image in found.empty] == [("a.jpg", ())]
    assert found.skipped == ()


def test_an_image_may_be_called_as_its_annotation_says(tmp_path: Path) -> None:
    """In place of the name of the annotation, which comes first where there are both."""
    voc(tmp_path, "a", thing("cat", 1, 1, 9, 9), image=False)
    picture(tmp_path / "JPEGImages" / "before.jpg")
    assert [image.path.name for image in read_boxes(tmp_path).images] == ["before.jpg"]
    picture(tmp_path / "JPEGImages" / "a.jpg")
    assert [image.path.name for image in read_boxes(tmp_path).images] == ["a.jpg"]


def test_coco_boxes_are_a_corner_and_lengths(tmp_path: Path) -> None:
    coco(tmp_path, "val2017", {"a.jpg": [[1.5, 2, 10, 20.25], [30, 20, 20, 20]], "b.jpg": []})
    found = read_boxes(tmp_path)
    assert found.images[0].boxes == (NamedBox("cat", 1.5, 2, 11.5, 22.25), NamedBox("cat", 30, 20, 40, 30))
    assert (len(found.images), len(found.empty), found.skipped) == (1, 1, ())


def test_damaged_boxes_and_images_are_left_out_and_reported(tmp_path: Path) -> None:
    good = thing("cat", 2, 2, 9, 9)
    voc(tmp_path, "a", good + thing("dog", 5, 7, 5, 7) + thing("cow", 1, 2) + thing("hen", 50, 1, 60, 9))
    voc(tmp_path, "b", good, image=False)
    voc(tmp_path, "c", good, size=(400, 300))
    voc(tmp_path, "d", good)
    (tmp_path / "JPEGImages" / "d.jpg").write_bytes(b"no image")
    voc(tmp_path, "e", good)
    whole = (tmp_path / "JPEGImages" / "e.jpg").read_bytes()
    (tmp_path / "JPEGImages" / "e.jpg").write_bytes(whole[: len(whole) // 2])
    found = read_boxes(tmp_path)
    assert [image.path.name for image in found.images] == ["a.jpg"]
    assert found.images[0].boxes == (NamedBox("cat", 1, 1, 9, 9),)
    assert found.skipped == (
        "a.jpg: the box dog (5, 7, 5, 7) has no area",
        "a.jpg: the box cow is damaged: None is no number",
        "a.jpg: the box hen (49, 0, 60, 9) has no area inside the image",
        "b.jpg: the image is missing",
        "c.jpg: annotated as 400 x 300 pixels, but it has 40 x 30",
        "d.jpg: the image is unreadable",
        "e.jpg: the image is unreadable",
    )
    coco(tmp_path / "coco", "train", {"a.jpg": [[1, 1, 5, 5], [1, 1, 0, 5], [1, "x", 2, 2], [1, 2], None]})
    found = read_boxes(tmp_path / "coco")
    assert found.images[0].boxes == (NamedBox("cat", 1, 1, 6, 6),)
    assert [reason.partition(":")[0] for reason in found.skipped] == ["a.jpg"] * 4
    assert any("(1, 1, 1, 6) has no area inside the image" in reason for reason in found.skipped)


def test_what_is_left_out_can_be_written_whatever_its_name(tmp_path: Path) -> None:
    voc(tmp_path, "a", thing("cat", 1, 1, 9, 9))
    voc(tmp_path, os.fsdecode(b"caf\xe9"), thing("cat", 1, 1, 9, 9), image=False)
    assert read_boxes(tmp_path).skipped == (r"caf\xe9.jpg: the image is missing",)


def test_images_are_looked_at_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counting(path: Path) -> bool:
        looked.append(path.name)
        return is_readable(path)

    is_readable = boxes.is_readable
    monkeypatch.setattr(boxes, "is_readable", counting)
    coco(tmp_path, "train", {"a.png": [[1, 2, 3, 4]], "b.png": [[1, 2, 3, 4]]})
    coco(tmp_path, "val", {"c.png": [[1, 2, 3, 4]]})
    for _ in range(2):
        trained = read_boxes(tmp_path, purpose="training")
        assert [image.path.name for image in trained.images] == ["a.png", "b.png"]
        assert [image.path.name for image in read_boxes(tmp_path).images] == ["c.png"]
    assert sorted(looked) == ["a.png", "b.png", "c.png"]

    (tmp_path / "train" / "a.png").write_bytes(b"no image")
    changed = read_boxes(tmp_path, purpose="training")
    assert [image.path.name for image in changed.images] == ["b.png"]
    assert changed.skipped == ("a.png: the image is unreadable",)


def test_looking_at_many_images_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    coco(tmp_path, "val", {"c.png": [[1, 2, 3, 4]]})
    read_boxes(tmp_path)
    assert "1/1" in capsys.readouterr().err


def test_splits_are_those_that_the_files_name(tmp_path: Path) -> None:
    for name in "abc":
        voc(tmp_path / "voc", name, thing("cat", 1, 1, 5, 5))
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "test.txt").write_text("c \n\n")
    (lists / "cat_test.txt").write_text("c 1\n")

    def names(root: str, split: str | None) -> list[str]:
        return [image.path.stem for image in read_boxes(tmp_path / root, split).images]

    assert [names("voc", split) for split in (None, "train", "all")] == [["c"], ["a", "b"], ["a", "b", "c"]]
    for split in ("train2017", "val2017"):
        coco(tmp_path / "coco", split, {f"{split}.png": [[1, 1, 5, 5]]})
    assert names("coco", None) == ["val2017"]
    assert names("coco", "all") == ["train2017", "val2017"]
    with pytest.raises(ValueError, match=r"no split 'tset': choose test, train, all"):
        names("voc", "tset")
    voc(tmp_path / "voc", "d 1", thing("cat", 1, 1, 5, 5))
    (lists / "test.txt").write_text("c 1\nd 1\n")
    assert names("voc", "test") == ["c", "d 1"]
    (lists / "test.txt").write_text("c\nd\n")
    with pytest.raises(ValueError, match=r"d.xml is missing, but the list of the split names it"):
        names("voc", "test")


def test_difficult_objects_and_crowds_are_marked(tmp_path: Path) -> None:
    easy, difficult = thing("cat", 1, 1, 5, 5), thing("dog", 1, 1, 5, 5)
    difficult = difficult.replace("<bndbox>", "<difficult> 1 </difficult><bndbox>")
    voc(tmp_path / "voc", "a", easy + difficult + easy.replace("<bndbox>", "<difficult>0</difficult><bndbox>"))
    assert [box.uncounted for box in read_boxes(tmp_path / "voc").images[0].boxes] == [False, True, False]
    boxes = [{"id": k, "image_id": 0, "category_id": 7, "bbox": [1, 1, 5, 5]} for k in range(3)]
    boxes = [boxes[0], boxes[1] | {"iscrowd": 1}, boxes[2] | {"iscrowd": 0}]
    coco(tmp_path / "coco", "val", {"a.jpg": []}, annotations=boxes)
    assert [box.uncounted for box in read_boxes(tmp_path / "coco").images[0].boxes] == [False, True, False]


def test_training_reads_the_training_split_of_all_years(tmp_path: Path) -> None:
    for year, lists in (("VOC2007", ("test", "train", "trainval", "val")), ("VOC2012", ("train", "trainval", "val"))):
        root = tmp_path / "VOCdevkit" / year
        (root / "ImageSets" / "Main").mkdir(parents=True)
        for split in lists:
            voc(root, f"{year}-{split}", thing("cat", 1, 1, 5, 5))
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{year}-{split}\n")

    def names(split: str | None, **purpose: Any) -> list[str]:
        return [image.path.stem for image in read_boxes(tmp_path, split, **purpose).images]

    assert names(None) == ["VOC2007-test"]
    assert names(None, purpose="training") == ["VOC2007-trainval", "VOC2012-trainval"]
    assert names("train", purpose="training") == ["VOC2007-train", "VOC2012-train"]
    coco(tmp_path / "coco", "train2017", {"a.jpg": [[1, 1, 5, 5]]})
    coco(tmp_path / "coco", "val2017", {"b.jpg": [[1, 1, 5, 5]]})
    found = read_boxes(tmp_path / "coco", purpose="training")
    assert [image.path.name for image in found.images] == ["a.jpg"]


def test_what_is_no_detection_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist: expected a detection set: Annotations/\*.xml"):
        read_boxes(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no boxes: expected .* \(COCO\)"):
        read_boxes(tmp_path)
    voc(tmp_path / "empty", "a", thing("cat", 4, 4, 4, 4))
    with pytest.raises(
        ValueError,
        match=r"usable box for testing, split=None: a.jpg: the box cat \(4, 4, 4, 4\) has",
    ):
        read_boxes(tmp_path / "empty")
    voc(tmp_path / "broken", "a", "<object>")
    with pytest.raises(ValueError, match=r"cannot read the boxes in .*a.xml: mismatched tag.*repair or remove"):
        read_boxes(tmp_path / "broken")
    coco(tmp_path / "coco", "val", {"a.jpg": [[1, 1, 5, 5]]}, categories=[])
    with pytest.raises(ValueError, match=r"val.json: an annotation of the unknown image or category 7: it"):
        read_boxes(tmp_path / "coco")
    (tmp_path / "coco" / "annotations" / "instances_val.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read the boxes in .*instances_val.json"):
        read_boxes(tmp_path / "coco")
