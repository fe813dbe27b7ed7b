"""The transfer to detection as a part: from a run and a set of boxes to the page, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from tests.detection.squares import write_squares
from tests.suite.memory import COLORS, Memory, quiet, tiny_subject

from multimix import cli
from multimix.suite import ALL, Detection
from multimix.suite.detection_page import sections
from multimix.suite.part import Subject
from multimix.suite.running import options_of


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "squares", train=6, test=4)


@pytest.fixture
def subject() -> Subject:
    return tiny_subject("smallnet-w8", ("a", "b", "c"))


def part(squares: Path, **options: Any) -> Detection:
    return Detection(**{"boxes": squares, "image_size": 32, "epochs": 2, "batch_size": 3, "lr": 0.01, **options})


def evaluate(run: Path, squares: Path, *further: str) -> None:
    options = "--detection.image-size 32 --detection.epochs 2 --detection.batch-size 2 --detection.lr 0.001"
    boxes = ["--detection.boxes", str(squares)]
    cli.main(["evaluate", str(run), "--parts", "detection", *boxes, *options.split(), *further])


def test_from_a_run_to_the_page(digits_run, squares: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    run = digits_run("run")
    evaluate(run, squares)
    assert re.search(r"detection\s+detection", capsys.readouterr().out)
    (model,) = json.loads((run / "evaluation.json").read_text())["models"]
    found = model["parts"]["detection"]
    assert set(found["headline"]) == {"detection mAP, % ↑", "detection AP50, % ↑"}
    result = found["result"]
    assert (result["train_images"], result["test_images"], result["set"]) == (6, 4, "squares")
    assert len(result["losses"]) == 2
    assert 0 <= result["map"] <= result["map_50"] <= 1
    assert [len(picture["true"]) for picture in result["pictures"]] == [2, 2, 2, 0]
    page = (run / "evaluation.html").read_text()
    for title in (
        "Transfer to object detection",
        "What the detectors find",
        "the paper&#39;s numbers: object detection",
    ):
        assert title in page or title.replace("&#39;", "'") in page
    # The results are kept, and the state of the fine-tuning is not.
    assert [file.name for file in (run / "evaluation" / "last").iterdir()] == ["detection.json"]
    evaluate(run, squares)
    assert "1 of 1 evaluations are there already" in capsys.readouterr().out


def test_an_interrupted_evaluation_goes_on(digits_run, squares: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    whole, run = digits_run("whole"), digits_run("run")
    evaluate(whole, squares)
    from multimix.detection import fine_tuning

    step, steps = fine_tuning._step, []

    def counted(*args: Any) -> float:
        steps.append(None)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(fine_tuning, "_step", counted)
    with pytest.raises(SystemExit, match="130"):
        evaluate(run, squares)
    assert "every result that could be saved is. Continue with: multimix evaluate" in capsys.readouterr().err
    evaluate(run, squares)
    assert len(steps) == 6
    first, second = (json.loads((path / "evaluation.json").read_text())["models"][0] for path in (whole, run))
    assert first["parts"] == second["parts"]


def test_the_classifier_is_left_as_it_was(subject: Subject, squares: Path) -> None:
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    part(squares).evaluate(subject, Memory(), quiet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())
    assert not any(module.training for module in subject.model.modules())


def test_seeds_and_frozen_stages_matter(subject: Subject, squares: Path) -> None:
    def losses(of: Subject, **options: Any) -> list[float]:
        return part(squares, **options).evaluate(of, Memory(), quiet)["losses"]  # type: ignore[no-any-return]

    first = losses(subject)
    assert losses(subject) == first
    assert losses(replace(subject, seed=1)) != first
    assert losses(subject, frozen_stages=4) != first
    assert losses(subject, augment="flip") != first
    mixed = losses(subject, mixed_precision=True)
    assert mixed != first
    assert mixed[0] == pytest.approx(first[0], rel=0.02)


def test_faster_rcnn(subject: Subject, squares: Path) -> None:
    options = {"detector": "faster-rcnn", "epochs": 1, "batch_size": 6, "mixed_precision": True}
    result = part(squares, **options).evaluate(subject, Memory(), quiet)
    assert result["detector"] == "faster-rcnn"
    assert result["settings"]["augment"] == "flip"


def test_what_does_not_count_is_not_trained_on(subject: Subject, tmp_path: Path) -> None:
    squares = write_squares(tmp_path / "crowds", train=4, test=2, crowds=True)
    chosen = part(squares)
    train, test, _ = chosen._read()
    assert {box.name for image in train for box in image.boxes} == {"red"}
    assert {box.name for image in test for box in image.boxes} == {"red", "blue"}
    assert list(chosen.evaluate(subject, Memory(), quiet)["per_class"]) == ["red"]


def test_splits_that_are_links_to_the_same_images_are_refused(squares: Path) -> None:
    for file in (squares / "val2017").iterdir():
        file.unlink()
    (squares / "val2017").rmdir()
    (squares / "val2017").symlink_to(squares / "train2017")
    with pytest.raises(ValueError, match=r"4 images of .* would be trained on and tested on, such as 0.png"):
        part(squares).check_files(None)


@pytest.mark.parametrize(("split", "purpose"), [("train2017", "train"), ("val2017", "test")])
def test_a_split_where_no_box_counts_is_refused_before_anything_is_trained(
    squares: Path, split: str, purpose: str
) -> None:
    file = squares / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    content["annotations"] = [annotation | {"iscrowd": 1} for annotation in content["annotations"]]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"has no box to {purpose} on: all are marked as difficult or as a crowd"):
        part(squares).check_files(None)


def test_what_is_left_out_and_what_cannot_be_learnt_is_warned_of(subject: Subject, squares: Path) -> None:
    for k in (0, 1, 2, 3):
        (squares / "train2017" / f"{k}.png").unlink()
    file = squares / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "rde"
    file.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="the page lists them") as caught:
        result = part(squares).evaluate(subject, Memory(), quiet)
    told = " ".join(str(one.message) for one in caught)
    assert "4 images or boxes of" in told
    assert "such as 0.png: the image is missing; the page lists them" in told
    assert "no training image shows rde, but test images do" in told
    page = sections({"erm": [result]}, COLORS)
    assert page[0].caption.endswith("2.png: the image is missing, and 1 more, listed below.")
    (listed,) = [section for section in page if section.title == "Left out of the detection set"]
    assert listed.table is not None
    assert len(listed.table.rows) == 4


def test_mistakes_are_told_before_anything_is_trained(digits_run, squares: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    run = digits_run("run")

    def complaint(*further: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            evaluate(run, squares, *further)
        return capsys.readouterr().err  # type: ignore[no-any-return]

    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", str(run), "--parts", "detection"])
    assert (
        "detection needs a set of images with boxes, Pascal VOC or COCO: give --detection.boxes"
        in capsys.readouterr().err
    )
    assert "3 images of" in complaint("--detection.train-split", "val2017")
    assert "would be trained on and tested on, such as 0.png: choose" in complaint("--detection.split", "train2017")
    assert "has no split 'tset': choose" in complaint("--detection.split", "tset")
    assert "invalid choice 'yolo' for argument '--detection.detector'" in complaint("--detection.detector", "yolo")
    assert "epochs and batch_size must be at least 1" in complaint("--detection.epochs", "0")
    assert "frozen_stages must be at least 0" in complaint("--detection.frozen-stages", "-1")
    assert "frozen_stages must lie between 0 and the model's 4, got 9" in complaint("--detection.frozen-stages", "9")
    with pytest.raises(ValueError, match=r"detector must be ssd or faster-rcnn, got 'yolo'"):
        Detection(detector="yolo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"augment must be flip or ssd, got 'none'"):
        Detection(augment="none")  # type: ignore[arg-type]


def test_defaults_of_the_detector_and_their_values_are_one(tmp_path: Path) -> None:
    ssd = Detection(boxes=tmp_path, image_size=300, epochs=120, lr=0.002, weight_decay=5e-4, augment="ssd")
    assert options_of(Detection(boxes=tmp_path / "x" / "..")) == options_of(ssd)
    rcnn = options_of(Detection(detector="faster-rcnn", batch_size=8))
    assert (rcnn["image_size"], rcnn["epochs"], rcnn["lr"], rcnn["augment"]) == (800, 12, 0.01, "flip")


def test_a_damaged_checkpoint_is_replaced(subject: Subject, squares: Path) -> None:
    whole = part(squares).evaluate(subject, Memory(), quiet)
    store = Memory()
    store.path("detector.pt").write_bytes(b"damaged")
    with pytest.warns(
        UserWarning, match=r"the fine-tuning starts again from its beginning: .*detector\.pt is truncated"
    ):
        assert part(squares).evaluate(subject, store, quiet) == whole
    assert not store.path("detector.pt").exists()


def test_what_was_measured_survives_an_interrupt_before_it_is_returned(
    subject: Subject, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Memory()
    whole = part(squares).evaluate(subject, store, quiet)
    monkeypatch.setattr(Detection, "_measure", None)
    assert part(squares).evaluate(subject, store, quiet) == whole


def test_all_leaves_out_what_needs_a_set_of_its_own() -> None:
    assert "detection" not in ALL


def result(value: float, **changes: Any) -> dict[str, Any]:
    settings = {"epochs": 2, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0005, "seed": 0, "image_size": 300}
    picture = {
        "image": "data:image/jpeg;base64,AA", "aspect": 2.0, "true": [{"name": "cat", "edges": [0.1, 0.2, 0.5, 0.75]}],
        "found": [{"name": "dog <3", "score": 0.87, "edges": [0.0, 0.0, 1.0, 1.0]}],
    }  # fmt: skip
    return {
        "set": "VOC", "detector": "ssd", "train_images": 5000, "test_images": 50, "skipped": [],
        "settings": {**settings, "augment": "ssd", "frozen_stages": 0, "mixed_precision": False},
        "losses": [2.0, 1.0], "map": value,
        "map_50": 0.5, "map_75": 0.1, "per_class": {"cat": value, "dog <3": 0.2}, "pictures": [picture] * 3,
        "per_class_50": {"cat": 0.7, "dog <3": 0.4}, **changes,
    }  # fmt: skip


def test_the_page_compares_labels_and_shows_the_paper() -> None:
    precision, by_class, pictures, paper = sections(
        {"erm": [result(0.2), result(0.3)], "multimix": [result(0.4)]}, COLORS
    )
    assert precision.table is not None
    assert [[cell.text for cell in row[:2]] for row in precision.table.rows] == [
        ["erm", "25.00"],
        ["multimix", "40.00"],
    ]
    assert [row[1].top for row in precision.table.rows] == [False, True]
    for words in ("5,000 images of VOC", "squares of 300 pixels, SSD's augmentation.", "learning rate 0.01"):
        assert words in precision.caption
    assert by_class.table is not None
    assert [[cell.text for cell in row] for row in by_class.table.rows] == [
        ["cat", "25.0", "70.0", "40.0", "70.0"], ["dog <3", "20.0", "40.0", "20.0", "40.0"],
    ]  # fmt: skip
    assert paper.table is not None
    assert [cell.text for cell in paper.table.rows[-1]] == ["dense-multimix", "79.2", "8.8", "36.19", "19.8"]
    assert paper.table.columns[1:3] == ["SSD on VOC07+12\nmAP, %", "SSD on VOC07+12\nimages/s"]
    svg = ElementTree.fromstring(pictures.panels[0].svg)
    assert svg.get("viewBox") == "0 0 650 330"
    boxes = [tuple(float(rect.get(key, "")) for key in ("x", "y", "width", "height")) for rect in svg.iter("rect")]
    assert boxes[:2] == [(0, 0, 320, 160), (32, 32, 128, 88)]
    assert boxes[-1] == (32, 170 + 32, 128, 88)
    assert [title.text for title in svg.iter("title")][:2] == ["dog <3, score 0.87", "cat"]
    frozen = result(0.2, detector="faster-rcnn", skipped=["a.jpg: the image is missing"])
    frozen["settings"] |= {"frozen_stages": 2, "augment": "flip", "mixed_precision": True}
    caption = sections({"erm": [frozen]}, COLORS)[0].caption
    assert (
        "a shorter side of 300 pixels, mirrored at random, bfloat16, the first 2 stages of the encoder frozen."
        in caption
    )
    assert caption.endswith("Left out as damaged: a.jpg: the image is missing.")
