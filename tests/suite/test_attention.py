"""The part on attention: against maps and games of single images, and what it shows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from tests.suite.memory import LEGEND, Memory, quiet, tiny_subject
from torch import nn

from multimix import data
from multimix.evaluation import ATTENTIONS, attention_maps, pointing_game
from multimix.models import SplitModel, build
from multimix.reports.overlays import SIDE, data_uri, from_data_uri, shrink
from multimix.suite import Attention, pointing
from multimix.suite.attention_page import wilson
from multimix.suite.part import Subject


@pytest.fixture
def subject() -> Subject:
    return tiny_subject("smallnet", ("Cat", "hot_dog", "cow"))


@pytest.fixture
def detection(tmp_path: Path) -> Path:
    """Five images in COCO's layout: of cats and hot dogs, of cats, of something else, and without boxes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "set"
    (root / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    images = []
    for k, (width, height) in enumerate([(40, 30), (32, 32), (50, 20), (20, 24), (33, 21)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / "val" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": width, "height": height})
    boxes = [
        (0, 1, [0, 0, 15, 15]), (0, 2, [20, 5, 10, 20]), (0, 2, [2.5, 20, 8, 8]), (0, 3, [1, 1, 38, 28]),
        (1, 1, [8, 8, 16, 20]), (2, 3, [0, 0, 9, 9]), (4, 2, [0, 0, 33, 10]), (4, 3, [5, 5, 0, 3]),
    ]  # fmt: skip
    content = {
        "images": images,
        "annotations": [{"image_id": k, "category_id": c, "bbox": box} for k, c, box in boxes],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "hot dog"}, {"id": 3, "name": "zebra"}],
    }
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


def maps_of(subject: Subject, path: Path, target: int | None) -> torch.Tensor:
    """(kinds, 4, 4), for one image alone."""
    array = np.array(Image.open(path).resize((16, 16), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(array).movedim(-1, 0)[None].float() / 255
    with torch.no_grad():
        features = subject.model.features(pixels)
        target = int(subject.model.head(features).argmax()) if target is None else target
        maps = attention_maps(subject.model, features, torch.tensor([target]))
    return torch.cat([maps[kind] for kind in ATTENTIONS])


def test_the_game_asks_for_every_known_class_against_its_own_boxes(subject: Subject, detection: Path) -> None:
    found = Attention(boxes=detection, tolerance=1.5).evaluate(subject, Memory(), quiet)["pointing"]
    # By image: the classes that the model knows, their index, and their boxes.
    asked: list[tuple[int, tuple[int, int], dict[int, list[Any]]]] = [
        (0, (30, 40), {0: [(0, 0, 15, 15)], 1: [(20, 5, 30, 25), (2.5, 20, 10.5, 28)]}),
        (1, (32, 32), {0: [(8, 8, 24, 28)]}),
        (4, (21, 33), {1: [(0, 0, 33, 10)]}),
    ]
    for row, (image, size, by_class) in enumerate(asked):
        games = [
            pointing_game([maps_of(subject, detection / "val" / f"{image}.png", c)], [boxes], [size], tolerance=1.5)
            for c, boxes in by_class.items()
        ]
        for key in ("hit", "energy"):
            expected = torch.stack([getattr(game, key)[0] for game in games]).mean(0).tolist()
            assert [found[key][kind][row] for kind in ATTENTIONS] == pytest.approx(expected, abs=1e-5)
        for key in ("chance", "area", "center"):
            assert found[key][row] == pytest.approx(fmean(getattr(game, key).item() for game in games))
    assert (found["images"], found["without_boxes"], found["unknown_classes"]) == (3, 1, 1)
    assert found["classes"] == ["cat", "hot dog"]
    assert found["skipped"] == ["4.png: the box zebra (5, 5, 5, 8) has no area inside the image"]
    assert found["hit"]["uniform"] == pytest.approx(found["chance"])


def test_without_shared_classes_the_prediction_points_at_all_boxes(subject: Subject, detection: Path) -> None:
    stranger = replace(subject, class_names=("a", "b", "c"))
    found = Attention(boxes=detection).evaluate(stranger, Memory(), quiet)["pointing"]
    assert (found["images"], found["without_boxes"], found["unknown_classes"], found["classes"]) == (4, 1, 0, [])
    maps = maps_of(subject, detection / "val" / "2.png", None)
    game = pointing_game([maps], [[(0, 0, 9, 9)]], [(20, 50)])
    assert [found["energy"][kind][2] for kind in ATTENTIONS] == pytest.approx(game.energy[0].tolist(), abs=1e-5)


def test_classes_are_the_same_however_either_side_spells_them(subject: Subject, detection: Path) -> None:
    expected = Attention(boxes=detection).evaluate(subject, Memory(), quiet)["pointing"]
    file = detection / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(("CAT", "Hot_Dog", "zebra"), start=1)]
    file.write_text(json.dumps(content))
    found = Attention(boxes=detection).evaluate(subject, Memory(), quiet)["pointing"]
    assert found == expected


def test_the_game_is_played_on_the_split_that_is_asked_for(subject: Subject, detection: Path) -> None:
    val = json.loads((detection / "annotations" / "instances_val.json").read_text())
    (detection / "train").mkdir()
    (detection / "val" / "1.png").rename(detection / "train" / "1.png")
    for split, numbers in (("train", {1}), ("val", {0, 2, 3, 4})):
        content = val | {"images": [image for image in val["images"] if image["id"] in numbers]}
        content |= {"annotations": [box for box in val["annotations"] if box["image_id"] in numbers]}
        (detection / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    played = {
        split: Attention(boxes=detection, split=split).evaluate(subject, Memory(), quiet)["pointing"]["images"]
        for split in ("train", "val", "all")
    }
    assert played == {"train": 1, "val": 2, "all": 3}


def test_an_interrupted_game_continues(subject: Subject, detection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointing, "CHUNK", 1)
    part, store = Attention(boxes=detection), Memory()
    whole = part.evaluate(subject, Memory(), quiet)
    assert len(whole["pointing"]["chance"]) == whole["pointing"]["images"] == 3
    store.left = 2
    with pytest.raises(KeyboardInterrupt):
        part.evaluate(subject, store, quiet)
    assert len(store.kept) == 2
    store.left = 2
    assert part.evaluate(subject, store, quiet) == whole


def test_pictures_are_one_test_image_of_each_class_with_its_maps(subject: Subject) -> None:
    found = Attention().evaluate(subject, Memory(), quiet)
    assert found["pointing"] is None
    assert Attention().headline(found) == {}
    assert [picture["name"] for picture in found["pictures"]] == ["Cat", "hot_dog", "cow"]
    for k, picture in enumerate(found["pictures"]):
        image = subject.test.images[k].float() / 255  # type: ignore[union-attr]
        assert torch.equal(from_data_uri(picture["image"]), image)
        with torch.no_grad():
            features = subject.model.features(image[None])
            assert picture["predicted"] == subject.class_names[int(subject.model.head(features).argmax())]
            maps = attention_maps(subject.model, features, torch.tensor([k]))
        for kind, a in maps.items():
            assert torch.tensor(picture["maps"][kind]) == pytest.approx(a[0], rel=1e-3)


def test_images_of_ones_own_and_grey_ones(subject: Subject, detection: Path) -> None:
    found = Attention(images=detection / "val", count=2, kinds=("cam-relu",)).evaluate(subject, Memory(), quiet)
    assert [picture["name"] for picture in found["pictures"]] == ["0", "1"]
    g = torch.Generator().manual_seed(0)
    grey = replace(
        subject,
        model=build("smallnet", num_classes=3, image_size=16, channels=1, generator=g).eval(),
        test=data.ArrayDataset(torch.zeros(3, 1, 16, 16).byte(), torch.arange(3)),
    )
    found = Attention(images=detection / "val", boxes=detection).evaluate(grey, Memory(), quiet)
    assert len(found["pictures"]) == 5
    assert found["pointing"]["images"] == 3
    pixels = torch.tensor([255, 0, 0]).byte().view(1, 3, 1, 1)
    assert pointing.to_input(pixels, grey).item() == pytest.approx(0.299, abs=0.5 / 255)


def test_what_cannot_be_asked_for_is_refused(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kinds must be some of gap-relu, .* got gap"):
        Attention(kinds=("gap",))
    with pytest.raises(ValueError, match=r"got 0 and 0.0"):
        Attention(count=0)
    with pytest.raises(FileNotFoundError, match="holds no images to show"):
        Attention(images=tmp_path).evaluate(subject, Memory(), quiet)
    with pytest.raises(FileNotFoundError, match="does not exist: expected a detection set"):
        Attention(boxes=tmp_path / "none").evaluate(subject, Memory(), quiet)
    flat = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(3 * 16 * 16, 3))
    with pytest.raises(ValueError, match="needs features with spatial positions"):
        Attention().evaluate(replace(subject, model=flat), Memory(), quiet)


def test_without_a_linear_classifier_attention_by_class_is_left_out(subject: Subject) -> None:
    net = subject.model
    hidden = nn.Sequential(nn.Linear(net.classifier.in_features, 8), nn.ReLU(), nn.Linear(8, 3))  # type: ignore[arg-type]
    other = replace(subject, model=SplitModel(net.stages, net.pool, hidden).eval())
    found = Attention().evaluate(other, Memory(), quiet)
    assert found["kinds"] == ["gap-relu", "gap-softmax", "uniform"]
    (section,) = Attention().sections({"erm": [found]}, LEGEND)
    assert "erm has no attention by class: attention='cam' needs a classifier that is one nn.Linear" in section.caption
    assert section.panels[0].svg.count("<image") == 3 * 4
    with pytest.raises(ValueError, match="needs a classifier that is one"):
        Attention(kinds=("cam-relu",)).evaluate(other, Memory(), quiet)


def result(hit: list[float], energy: list[float]) -> dict[str, Any]:
    game = {
        "set": "cells", "images": len(hit), "without_boxes": 0, "unknown_classes": 2, "skipped": [], "classes": ["cat"],
        "tolerance": 15.0, "hit": {"gap-relu": hit, "uniform": [0.25] * len(hit)},
        "energy": {"gap-relu": energy, "uniform": [0.2] * len(hit)}, "chance": [0.25] * len(hit),
        "area": [0.2] * len(hit), "center": [1.0, 0.0, 0.0, 1.0],
    }  # fmt: skip
    return {"kinds": ["gap-relu", "uniform"], "left_out": "", "pictures": [], "pointing": game}


def test_the_table_of_the_game() -> None:
    results = {
        "erm": [result([1, 0, 0, 0], [0.5, 0.3, 0.3, 0.3]), result([1, 1, 0, 0], [0.5, 0.3, 0.3, 0.3])],
        "cutmix": [result([1, 1, 1, 0], [0.2] * 4)],
    }
    _, section = Attention().sections(results, LEGEND)
    assert section.table is not None
    rows = {row[0].text: [(cell.text, cell.spread) for cell in row[1:]] for row in section.table.rows}
    low, high = wilson(0.375, 4)
    # Differences by image, seeds averaged: 0.75, 0.25, -0.25, -0.25, of standard deviation 0.4787.
    assert rows["erm: GAP ReLU"] == [
        ("37.5", f"({100 * low:.1f} to {100 * high:.1f})"), ("+12.5", "± 46.9"), ("−12.5", "± 61.7"), ("35.0", "± 9.8"),
    ]  # fmt: skip
    assert rows["random pixel"][0] == ("25.0", "")
    assert rows["centre of the image"][0][0] == "50.0"
    assert "erm: uniform" not in rows
    best = {row[0].text: [cell.top for cell in row] for row in section.table.rows}
    assert best["cutmix: GAP ReLU"] == [False, True, False, False, False]
    assert best["erm: GAP ReLU"] == [False, False, False, False, True]
    (*_, alone) = Attention().sections({"erm": results["erm"]}, LEGEND)
    assert alone.table is not None
    assert not any(cell.top for row in alone.table.rows for cell in row)
    assert "A miss by at most 15 pixels is a hit." in section.caption
    assert "Left out: images without a shared class (2)." in section.caption
    assert Attention().headline(results["erm"][0]) == {"pointing game, % ↑": 25.0}


def test_the_grid_is_drawn_in_order_with_wrong_predictions_named(subject: Subject) -> None:
    found = Attention(kinds=("gap-relu", "uniform")).evaluate(subject, Memory(), quiet)
    found["pictures"][0] |= {"name": "a<b", "predicted": "c"}
    (section,) = Attention().sections({"erm": [found], "cutmix": [found]}, LEGEND)
    assert [panel.title for panel in section.panels] == ["erm", "cutmix"]
    svg = section.panels[0].svg
    ElementTree.fromstring(svg)
    assert re.findall(r">([^<>]+)</text>", svg)[:5] == ["image", "GAP", "ReLU", "uniform", "a&lt;b → c"]
    hrefs = re.findall(r'href="([^"]*)"', svg)
    assert hrefs[0] == found["pictures"][0]["image"]
    heat = from_data_uri(hrefs[1])
    a = torch.tensor(found["pictures"][0]["maps"]["gap-relu"])
    y, x = divmod(int(a.argmax()), 4)
    red = heat[0] - 0.3 * from_data_uri(hrefs[0]).mean(0).repeat_interleave(SIDE // 16, 0).repeat_interleave(9, 1)
    assert red[y * 36 + 18, x * 36 + 18] > red.max() - 0.15


def test_large_pictures_are_kept_no_larger_than_they_are_shown() -> None:
    ramp = torch.linspace(0, 1, 224).expand(1, 224, 224)
    small = shrink(ramp)
    assert small.shape == (3, SIDE, SIDE)
    assert small[0, 0].diff().min() > 0
    read = from_data_uri(data_uri(small, lossless=False))
    assert (read - small).abs().max() < 0.05
