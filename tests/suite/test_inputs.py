"""What is refused before anything is evaluated, and which results no longer hold when files have changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from multimix import cli
from multimix.data import Dataset
from multimix.data.catalogue import read_from
from multimix.data.ood_sets import ood_set
from multimix.suite import Accuracy, Ood, ood, subjects
from multimix.suite.fingerprint import fingerprint
from multimix.suite.running import check_inputs, measure, run_parts
from multimix.suite.subjects import Candidate, make_identity, run_candidates
from multimix.training import setting

MakeRun = Callable[..., Path]


def picture(path: Path, value: int, side: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


def evaluate(*arguments: object) -> None:
    cli.main(["evaluate", *map(str, arguments)])


def refusal(capsys: pytest.CaptureFixture[str], arguments: Sequence[object]) -> str:
    with pytest.raises(SystemExit) as stop:
        evaluate(*arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert error.count("\n") == 1, error
    return error


def test_a_fingerprint_changes_with_names_sizes_times_and_not_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    seen = [fingerprint(folder)]

    def changed() -> bool:
        seen.append(fingerprint(folder))
        assert fingerprint(folder) == seen[-1]
        return seen[-1] not in seen[:-1]

    folder.mkdir()
    assert changed()
    (folder / "inner").mkdir()
    (folder / "inner" / "a").write_bytes(b"12")
    os.utime(folder / "inner" / "a", ns=(5, 5))
    assert changed()
    (folder / "inner" / "a").write_bytes(b"123")
    os.utime(folder / "inner" / "a", ns=(5, 5))
    assert changed()
    os.utime(folder / "inner" / "a", ns=(5, 6))
    assert changed()
    (folder / "inner" / "a").rename(folder / "b")
    assert changed()
    (folder / "link").symlink_to(tmp_path / "nowhere")
    assert changed()
    before = fingerprint(folder / "b")
    (folder / "b").write_bytes(b"1234")
    assert fingerprint(folder / "b") != before


def test_a_file_that_moves_to_another_folder_changes_the_fingerprint(tmp_path: Path) -> None:
    """Folders are classes."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    (tmp_path / "cat" / "a").write_bytes(b"12")
    before = fingerprint(tmp_path)
    (tmp_path / "cat" / "a").rename(tmp_path / "dog" / "a")
    assert fingerprint(tmp_path) != before


def test_bad_sets_and_folders_are_refused_before_anything_is_computed(
    digits_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = digits_run("run")
    picture(tmp_path / "good" / "0.png", 9)
    (tmp_path / "empty").mkdir()
    no_images = np.zeros((0, 32, 32, 3), np.uint8)
    one, none = np.arange(10), np.zeros(0, np.int64)
    ten = np.zeros((10, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "empty.npz", train_images=ten, train_labels=one, test_images=no_images, test_labels=none)
    (tmp_path / "voc" / "Annotations").mkdir(parents=True)
    (tmp_path / "voc" / "Annotations" / "0.xml").write_text("<annotation>")
    every = [run, "--parts", "accuracy,ood,attention"]
    for arguments, message in (
        (["--ood.sets", f"good={tmp_path / 'good'}", f"none={tmp_path / 'empty'}"], "empty holds no images"),
        (["--ood.sets", f"lost={tmp_path / 'lost'}"], "lost does not exist: expected the images of lost"),
        (["--ood.sets", f"cifar10={tmp_path / 'empty.npz'}"], "empty.npz"),
        (["--ood.sets", f"svhn={tmp_path / 'good'}"], "svhn (test_32x32.mat) is not in"),
        (["--ood.sets", f"cifar100={tmp_path / 'empty'}"], "cifar100 is not in"),
        (["--attention.images", tmp_path / "lost"], "lost does not exist: expected images"),
        (["--attention.images", tmp_path / "empty"], "holds no images to show"),
        (["--attention.boxes", tmp_path / "empty"], "holds no boxes"),
        (["--attention.boxes", tmp_path / "voc"], "cannot read the boxes in"),
    ):
        assert message in refusal(capsys, [*every, *arguments]), arguments
    assert not (run / "evaluation").exists()
    # Nobody asked for these parts.
    with pytest.warns(UserWarning, match=r"--ood.sets is for a part that is not measured: --parts leaves out ood"):
        evaluate(run, "--parts", "accuracy", "--ood.sets", f"lost={tmp_path / 'lost'}")


def test_broken_images_come_with_advice_that_can_be_followed(
    digits_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = digits_run("run")
    for name in ("good", "broken"):
        picture(tmp_path / "set" / f"{name}.png", 9)
        picture(tmp_path / "crops" / "test" / f"{name}.png", 9)
        picture(tmp_path / "classes" / "cat" / f"{name}.png", 9)
    for broken in ("set/broken.png", "crops/test/broken.png", "classes/cat/broken.png"):
        (tmp_path / broken).write_bytes(b"no image")
    library = ["timm:resnet10t", "--data", "imagefolder", "--data-root", tmp_path / "classes", "--image-size", "12"]
    for arguments in (
        [run, "--parts", "ood", "--ood.sets", f"x={tmp_path / 'set'}"],
        [run, "--parts", "ood", "--ood.sets", f"lsun-crop={tmp_path / 'crops'}"],
        [*library, "--weights", run / "model.safetensors", "--out", tmp_path / "out"],
    ):
        told = refusal(capsys, arguments)
        assert "broken.png: it is not an image, or of an unknown format: replace or remove the file\n" in told
    page = [run, "--parts", "accuracy,ood", "--ood.sets", f"x={tmp_path / 'set'}"]
    with pytest.raises(SystemExit):
        evaluate(*page)
    assert "bad" not in capsys.readouterr().err + (run / "evaluation.html").read_text()


def test_images_that_changed_are_evaluated_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k, label in enumerate(("ant", "bee") * 6):
        picture(tmp_path / "images" / ("train", "val")[k // 2 % 2] / label / f"{k}.png", 20 * k)
    run = tmp_path / "runs" / "erm"
    images = ["--data-root", str(tmp_path / "images"), "--image-size", "12"]
    small = ["--model", "smallnet-w4", "--epochs", "1", "--workers", "0", "--batch-size", "4"]
    cli.main(["train", "imagefolder", "--method", "erm", *images, *small, "--out", str(run)])

    def nll() -> float:
        evaluate(run, "--parts", "accuracy")
        (found,) = json.loads((run / "evaluation.json").read_text())["models"]
        return float(found["parts"]["accuracy"]["result"]["nll"])

    before = nll()
    capsys.readouterr()
    assert nll() == before
    assert "there already" in capsys.readouterr().out
    (tmp_path / "images" / "val" / "ant" / "2.png").rename(tmp_path / "images" / "val" / "bee" / "2.png")
    setting._load.cache_clear()  # another process
    subjects._state.cache_clear()
    assert nll() != before

    for label in ("ant", "bee", "cow"):
        picture(tmp_path / "three" / label / "1.png", 90)
    library = ["timm:resnet10t", "--data", "imagefolder", "--data-root", tmp_path / "three", "--image-size", "32"]
    told = refusal(capsys, [run, *library, "--weights", run / "model.safetensors", "--parts", "accuracy"])
    assert "on different data (imagefolder with 2 classes, imagefolder with 3; class 2 is " in told


def test_images_that_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for k, label in enumerate(("ant", "bee") * 6):
        picture(tmp_path / "images" / ("train", "val")[k // 2 % 2] / label / f"{k}.png", 20 * k)
    monkeypatch.chdir(tmp_path)
    small = ["--image-size", "12", "--model", "smallnet-w4", "--epochs", "1", "--workers", "0", "--batch-size", "4"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "imagefolder", "--data-root", "images", *small, "--out", "images/train/run"])
    assert stop.value.code == 2
    assert "lies in" in capsys.readouterr().err
    assert not Path("images/train/run").exists()
    cli.main(["train", "imagefolder", "--method", "erm", "--data-root", "images", *small, "--out", "run"])
    evaluate("run", "--parts", "accuracy", "--out", "before")
    Path("images").rename("pictures")
    setting._load.cache_clear()  # another process
    subjects._state.cache_clear()
    shutil.rmtree("run/evaluation")
    told = refusal(capsys, ["run", "--parts", "accuracy"])
    assert "images does not exist" in told
    assert f"(from run/config.json; seen from {tmp_path}): where the images have moved" in told
    evaluate("run", "--parts", "accuracy", "--data-root", "pictures", "--out", "after")
    found = [json.loads(Path(name, "evaluation.json").read_text())["models"] for name in ("before", "after")]
    assert found[0][0]["parts"]["accuracy"]["result"] == found[1][0]["parts"]["accuracy"]["result"]


def test_results_are_of_the_exported_weights_where_there_is_a_checkpoint_too(digits_run: MakeRun) -> None:
    run = digits_run("run")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.pt").write_bytes(b"any")
    (before,) = run_candidates([run], which=["last"])
    first = before.identity()
    shutil.copy(digits_run("other", seed=1) / "model.safetensors", run)
    (after,) = run_candidates([run], which=["last"])
    assert after.identity() != first


def test_weights_that_change_meanwhile_are_not_measured_under_the_old_name(digits_run: MakeRun) -> None:
    run = digits_run("run")
    (candidate,) = run_candidates([run], which=["last"])
    candidate.load()
    path = run / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="has changed weights since the start, as it is still training"):
        candidate.load()


def test_other_classes_are_refused_before_the_first_run_is_evaluated(
    digits_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = digits_run("runs/0"), digits_run("runs/1", seed=1)
    for run in (first, second):
        config = json.loads((run / "config.json").read_text())
        config["data_info"]["class_names"][9] = "nine"
        (run / "config.json").write_text(json.dumps(config))
    error = refusal(capsys, [first.parent, "--parts", "accuracy"])
    assert f"{first} was trained on 10 classes (0, 1, 2, ...), but the data now have" in error
    assert not (first / "evaluation").exists()


def test_a_set_whose_files_changed_is_measured_again(
    digits_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = digits_run("run"), tmp_path / "set"
    for k in range(4):
        picture(folder / f"{k}.png", 60 * k)
    command = (run, "--parts", "accuracy,ood", "--ood.sets", f"mine={folder}")

    def images() -> int:
        evaluate(*command)
        (model,) = json.loads((run / "evaluation.json").read_text())["models"]
        count: int = model["parts"]["ood"]["result"]["sets"]["mine"]["images"]
        return count

    assert images() == 4
    with monkeypatch.context() as patch:
        patch.setattr(Ood, "evaluate", lambda *_: pytest.fail("measured again"))
        patch.setattr(ood, "check_set", lambda *_, **__: pytest.fail("looked at again"))
        assert images() == 4
    picture(folder / "4.png", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Accuracy, "evaluate", lambda *_: pytest.fail("measured again"))
        assert images() == 5


def test_only_sets_that_are_new_or_changed_are_measured(
    digits_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = digits_run("run")
    for k in range(4):
        picture(tmp_path / "a" / f"{k}.png", 60 * k)
        picture(tmp_path / "b" / f"{k}.png", 60 * k + 20)
    loaded: list[str] = []

    def counted(spec: str, **options: Any) -> Dataset:
        loaded.append(spec)
        return ood_set(spec, **options)

    monkeypatch.setattr(ood, "ood_set", counted)
    a, b, noise = f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", "uniform-noise"

    def measured(*sets: str, **options: Any) -> tuple[list[str], Mapping[str, Any]]:
        ood._load.cache_clear()
        loaded.clear()
        (candidate,) = run_candidates([run], which=["last"])
        result = measure(candidate, Ood(sets=sets, **{"limit": 20, **options}))
        return list(loaded), result

    assert measured(a, noise)[0] == [a, noise]
    again, three = measured(a, b, noise)
    assert again == [b]
    assert list(three["sets"]) == ["a", "b", "uniform-noise"]
    assert measured(noise, b)[0] == []
    picture(tmp_path / "a" / "4.png", 1)
    again, changed = measured(a, b, noise)
    assert again == [a]
    assert changed["sets"]["a"]["images"] == 5
    assert measured(a, b, noise, detectors=("energy", "max-softmax"))[0] == [a, b, noise]
    assert measured(a, b, noise, seed=1)[0] == [a, b, noise]
    assert measured(a, b, noise, fit_limit=7)[0] == [a, b, noise]
    again, fewer = measured(a, b, noise, limit=3)
    assert again == [a, b, noise]
    assert [one["images"] for one in fewer["sets"].values()] == [3, 3, 3]
    # What was put together from kept pieces is what one evaluation from nothing says.
    (run / "evaluation" / "last" / "ood.json").unlink()
    assert measured(a, b, noise) == ([a, b, noise], changed)


def test_sets_in_one_folder_do_not_count_each_others_files(
    digits_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = digits_run("run"), tmp_path / "sets"
    arrays = {f"{split}_{what}": np.zeros((10, 32, 32, 3), np.uint8) if what == "images" else np.arange(10)
              for split in ("train", "test") for what in ("images", "labels")}  # fmt: skip
    make: dict[str, Callable[[], object]] = {
        "cifar10": lambda: np.savez(folder / "cifar10.npz", **arrays),
        "dtd": lambda: picture(folder / "dtd" / "images" / "banded" / "0.png", 9),
        "lsun-resize": lambda: picture(folder / "LSUN_resize" / "LSUN_resize" / "0.png", 9),
        "tinyimagenet-resize": lambda: picture(folder / "val" / "0.png", 9),
    }
    folder.mkdir()
    measured: list[str] = []

    def counted(spec: str, **options: Any) -> Dataset:
        measured.append(spec.partition("=")[0])
        return ood_set(spec, **options)

    monkeypatch.setattr(ood, "ood_set", counted)
    for name, write in make.items():
        write()
        evaluate(run, "--parts", "ood", "--ood.sets", *(f"{known}={folder}" for known in [*measured, name]))
        assert measured[-1] == name
    assert measured == list(make)
    # The textures and arrays of a folder, in whichever form they are there.
    (folder / "dtd").rename(folder / "other")
    picture(folder / "banded" / "0.png", 9)
    evaluate(run, "--parts", "ood", "--ood.sets", f"dtd={folder}", f"lsun-resize={folder}")
    assert measured == [*make, "dtd"]
    picture(folder / "banded" / "0.png", 200)
    os.utime(folder / "banded" / "0.png", ns=(5, 5))
    evaluate(run, "--parts", "ood", "--ood.sets", f"dtd={folder}", f"lsun-resize={folder}")
    assert measured == [*make, "dtd", "dtd"]


def test_results_hold_for_data_that_were_fetched_for_them(digits_run: MakeRun, tmp_path: Path) -> None:
    run, root = digits_run("run"), tmp_path / "images"

    def candidate() -> Candidate:
        (of_run,) = run_candidates([run], which=["last"])
        return replace(
            of_run,
            identity=lambda: make_identity("weights", files=read_from("imagefolder", root)),
            check=lambda: picture(root / "train" / "cat" / "0.png", 9),
        )

    class Silent:
        def begin(self, *_: object) -> None: ...
        def say(self, *_: object) -> None: ...
        def end(self, *_: object, **__: object) -> None: ...

    first = candidate()
    assert check_inputs([first], [Accuracy()]) == {"accuracy": 1}
    run_parts([first], [Accuracy()], Silent())
    assert check_inputs([candidate()], [Accuracy()]) == {"accuracy": 0}


@pytest.mark.parametrize("download", [True, False])
def test_missing_sets_are_fetched_where_that_is_asked_for(download: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(ood, "check_set", lambda spec, **options: asked.append((spec, options["download"])))
    Ood(sets=("svhn=a", "dtd=b"), download=download).check_files(8)
    assert asked == [("svhn=a", download), ("dtd=b", download)]


def test_crops_that_are_too_small_are_refused_before_anything_is_computed(
    digits_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = digits_run("run")
    picture(tmp_path / "good" / "0.png", 9)
    picture(tmp_path / "small" / "test" / "0.png", 9, side=6)
    for name in ("tinyimagenet-crop", "lsun-crop"):
        sets = ["--ood.sets", f"good={tmp_path / 'good'}", f"{name}={tmp_path / 'small'}"]
        error = refusal(capsys, [run, "--parts", "accuracy,ood", *sets])
        assert "images of 6x6 pixels in" in error
        assert f"cannot be cropped to the 8 that the classifier takes: use {name.replace('crop', 'resize')}" in error
    assert not (run / "evaluation").exists()


def test_boxes_that_changed_are_read_again(digits_run: MakeRun, tmp_path: Path) -> None:
    run, root = digits_run("run"), tmp_path / "set"
    picture(root / "val" / "0.png", 50, side=20)

    def annotate(*boxes: list[int]) -> None:
        (root / "annotations").mkdir(exist_ok=True)
        content = {
            "images": [{"id": 0, "file_name": "0.png", "width": 20, "height": 20}],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [
                {"id": k, "image_id": 0, "category_id": 1, "bbox": box, "iscrowd": 0} for k, box in enumerate(boxes)
            ],
        }
        (root / "annotations" / "instances_val.json").write_text(json.dumps(content))

    def area() -> float:
        evaluate(run, "--parts", "attention", "--attention.boxes", root)
        (model,) = json.loads((run / "evaluation.json").read_text())["models"]
        (share,) = model["parts"]["attention"]["result"]["pointing"]["area"]
        return float(share)

    annotate([0, 0, 10, 10])
    assert area() == pytest.approx(0.25)
    annotate([0, 0, 10, 10], [10, 10, 10, 10])
    assert area() == pytest.approx(0.5)
