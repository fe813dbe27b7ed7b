"""`multimix predict`: the probabilities of the evaluation, for files; what cannot be read is named and left out."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from multimix import recipes
from multimix.cli import main
from multimix.evaluation import predict
from multimix.training import class_names, classify, load_run, train
from multimix.training.setting import evaluation_loader, load_splits

SMALL = {"method": "erm", "epochs": 1, "tensorboard": False, "batch_size": 8}


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on digits, and some of its test images as files."""
    folder = tmp_path_factory.mktemp("grey")
    run = train(replace(recipes.get("digits"), model="smallnet-w4", per_class=5, **SMALL), folder / "run")
    images = load_splits(load_run(run)[0]).test.images
    for index in (0, 1, 2, 700):
        (folder / "images" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index, 0].numpy()).save(folder / "images" / str(index % 2) / f"{index:03}.png")
    return run, folder / "images"


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on photographs that are neither square nor of its size, and its test images."""
    folder = tmp_path_factory.mktemp("coloured")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(256, (130, 170, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / split / name / f"{index}.png")
    config = replace(
        recipes.get("imagefolder"), data_root=folder, model="smallnet-w4", image_size=104, workers=0, **SMALL
    )
    return train(config, folder / "run"), folder / "val"


@pytest.mark.parametrize("kind", ["grey", "coloured"])
def test_probabilities_are_those_of_the_evaluation(kind, request) -> None:
    run, folder = request.getfixturevalue(kind)
    files = sorted(folder.rglob("*.png"))
    found = list(classify(run, files, batch_size=3))
    assert [path for path, _ in found] == files
    config, model = load_run(run)
    splits = load_splits(config)
    logits, _ = predict(model, evaluation_loader(config, splits, splits.test, device="cpu"))
    places = [int(file.stem) for file in files] if kind == "grey" else range(len(files))
    expected = logits[list(places)].softmax(-1)
    assert torch.allclose(torch.stack([p for _, p in found]), expected, atol=1e-6)
    assert class_names(run) == list(splits.class_names)


def test_lines_and_files(grey, tmp_path, capsys) -> None:
    run, folder = grey
    main(["predict", str(run), str(folder / "0"), str(folder / "1" / "001.png"), "--top", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(folder / name) for name in ("0/000.png", "0/002.png", "0/700.png", "1/001.png")
    ]
    out = tmp_path / "found.csv"
    main(["predict", str(run), str(folder), "--top", "99", "--out", str(out)])
    with out.open() as file:
        rows = list(csv.reader(file))
    assert rows[0][:4] == ["image", "class_1", "probability_1", "class_2"]
    for row in rows[1:]:
        assert len(row) == len(rows[0])
        assert sorted(row[1::2]) == class_names(run)
        shares = [float(p) for p in row[2::2]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        text = next(line for line in lines if line.startswith(f"{row[0]}:"))
        assert text == f"{row[0]}: {row[1]} {shares[0]:.1%}, {row[3]} {shares[1]:.1%}"


def test_weights_of_the_best_epoch_where_asked(grey, tmp_path, capsys) -> None:
    run, folder = shutil.copytree(grey[0], tmp_path / "run"), grey[1]
    weights = load_file(run / "best.safetensors")
    # Of a classifier that is all zeros every class is as probable.
    zeros = {name: w * (not name.startswith("classifier")) for name, w in weights.items()}
    save_file(zeros, run / "best.safetensors")
    shown = []
    for which in ("last", "best"):
        main(["predict", str(run), str(folder / "0" / "000.png"), "--top", "2", "--which", which])
        shown.append(re.findall(r"[\d.]+%", capsys.readouterr().out))
    assert shown[0] != shown[1] == ["10.0%"] * 2


def test_device_and_batch_size_are_those_asked_for(grey, monkeypatch) -> None:
    run, folder = grey
    asked = []
    monkeypatch.setattr("multimix.cli.predict.use_device", lambda name: asked.append(name))
    monkeypatch.setattr("multimix.cli.predict.classify", lambda *_, **options: asked.append(options) or iter(()))
    main(["predict", str(run), str(folder), "--device", "cuda:1", "--batch-size", "3"])
    assert asked == ["cuda:1", {"which": "last", "device": "cuda:1", "batch_size": 3}]


def test_unreadable_images_are_named_and_the_others_classified(grey, tmp_path, capsys) -> None:
    run, folder = grey
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(tmp_path), str(folder / "0" / "000.png")])
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert err == f"multimix: cannot read the image {tmp_path / 'broken.png'}: it is not an image, or of an unknown " \
        "format: replace or remove the file\n"  # fmt: skip
    assert out.startswith(f"{folder / '0' / '000.png'}: ")


def test_a_picture_of_a_format_that_is_not_read_is_named(grey, tmp_path, capsys) -> None:
    run, folder = grey
    (tmp_path / "a.png").write_bytes((folder / "0" / "000.png").read_bytes())
    (tmp_path / "c.HEIC").write_bytes(b"phone")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(tmp_path)])
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'a.png'}: ")
    assert f"cannot read the image {tmp_path / 'c.HEIC'}" in err


def test_an_interrupt_leaves_what_was_classified_beside_the_file(grey, tmp_path, capsys, monkeypatch) -> None:
    run, folder = grey
    (out := tmp_path / "found.csv").write_text("earlier")

    def interrupted(*arguments, **options):
        yield from itertools.islice(classify(*arguments, **options), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("multimix.cli.predict.classify", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(folder), "--out", str(out)])
    assert stop.value.code == 130
    (partial,) = tmp_path.glob("found.csv.*.partial")
    assert f"stopped; the 3 images classified so far are in {partial}" in capsys.readouterr().err
    assert out.read_text() == "earlier"
    assert len(partial.read_text().splitlines()) == 4
    partial.unlink()
    monkeypatch.undo()
    (tmp_path / "link.csv").symlink_to(out)
    main(["predict", str(run), str(folder), "--out", str(tmp_path / "link.csv")])
    assert len(out.read_text().splitlines()) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.csv", "link.csv"]


def test_a_signal_is_as_good_as_an_interrupt(grey, tmp_path, capsys, monkeypatch) -> None:
    run, folder = grey

    def ended(*arguments, **options):
        yield from itertools.islice(classify(*arguments, **options), 2)
        os.kill(os.getpid(), signal.SIGTERM)
        yield

    monkeypatch.setattr("multimix.cli.predict.classify", ended)
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(folder), "--out", str(tmp_path / "found.csv")])
    assert stop.value.code == 130
    assert "stopped; the 2 images classified so far are in" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_named(grey, capsys) -> None:
    run, folder = grey
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(folder), "--out", "/dev/full"])
    assert stop.value.code == 2
    assert "cannot write /dev/full (No space left on device): choose another --out" in capsys.readouterr().err


def test_an_image_is_not_written_over(grey, tmp_path, capsys) -> None:
    run, folder = grey
    image = shutil.copy(folder / "0" / "000.png", tmp_path / "a.png")
    shutil.copy(image, tmp_path / "photo")
    for out in (image, tmp_path / "photo", tmp_path / "new.JPG"):
        with pytest.raises(SystemExit) as stop:
            main(["predict", str(run), str(image), str(tmp_path / "photo"), "--out", str(out)])
        assert stop.value.code == 2
        assert f"--out {out} is an image: name a file for the table" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "photo"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "which images? Give a run folder, then images or folders"),
        (["nowhere", "FOLDER"], "nowhere is not a run"),
        (["RUN", "missing.png"], "missing.png does not exist: expected an image, or a folder of images"),
        (["RUN", "EMPTY"], "holds no images (.jpg, "),
        (["RUN", "FOLDER", "--top", "0"], "top must be at least 1, got 0"),
        (["RUN", "FOLDER", "--which", "first"], "first"),
    ],
)
def test_mistakes_leave_an_earlier_file_alone(grey, tmp_path, capsys, arguments, message) -> None:
    run, folder = grey
    (tmp_path / "empty").mkdir()
    out = tmp_path / "found.csv"
    out.write_text("earlier")
    places = {"RUN": str(run), "FOLDER": str(folder), "EMPTY": str(tmp_path / "empty")}
    with pytest.raises(SystemExit) as stop:
        main(["predict", *(places.get(argument, argument) for argument in arguments), "--out", str(out)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert out.read_text() == "earlier"


def test_a_file_of_the_run_is_not_written_over(grey, tmp_path, capsys) -> None:
    run, folder = grey
    weights = (run / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(folder), "--out", str(run / "model.safetensors")])
    assert stop.value.code == 2
    assert "is a file of a run: name a file for the table" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == weights


def test_a_run_that_does_not_name_its_classes(grey, tmp_path, capsys) -> None:
    run, folder = grey
    (tmp_path / "run").mkdir()
    shutil.copy(run / "model.safetensors", tmp_path / "run")
    stored = json.loads((run / "config.json").read_text())
    del stored["data_info"]["class_names"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(tmp_path / "run"), str(folder)])
    assert stop.value.code == 2
    assert "config.json does not say class_names in data_info" in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not say class_names in data_info"):
        class_names(tmp_path / "run")


def test_arguments_of_classify_are_checked(grey) -> None:
    run, folder = grey
    with pytest.raises(TypeError, match=r"images must be several files, got 'a\.png': give a list"):
        classify(run, "a.png")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        classify(run, [folder], batch_size=0)
    ((_, error),) = classify(run, [folder])  # a folder, which the machine does not read as a file
    assert isinstance(error, IsADirectoryError)


def test_a_pipe_is_written_into(grey, tmp_path) -> None:
    run, folder = grey
    reader, writer = os.pipe()
    main(["predict", str(run), str(folder), "--out", f"/dev/fd/{writer}"])
    os.close(writer)
    with open(reader) as file:
        assert len(list(csv.reader(file))) == 5


def test_what_stops_before_the_first_image_leaves_nothing(grey, tmp_path, monkeypatch) -> None:
    run, folder = grey

    def failing(*arguments, **options):
        raise RuntimeError("CUDA error: out of memory")
        yield

    monkeypatch.setattr("multimix.cli.predict.classify", failing)
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(folder), "--out", str(tmp_path / "found.csv")])
    assert stop.value.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("done", [0, 2])
def test_an_error_while_classifying_is_not_one_of_the_table(done, grey, tmp_path, capsys, monkeypatch) -> None:
    run, folder = grey

    def failing(*arguments, **options):
        yield from itertools.islice(classify(*arguments, **options), done)
        raise OSError(5, "Input/output error", "photos/a.png")

    monkeypatch.setattr("multimix.cli.predict.classify", failing)
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(folder), "--out", str(tmp_path / "found.csv")])
    assert stop.value.code == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last == "multimix: error: [Errno 5] Input/output error: 'photos/a.png'"
    kept = [str(path) for path in tmp_path.iterdir()]
    assert before == [f"stopped; the {done} images classified so far are in {path}" for path in kept]
    assert len(kept) == (done > 0)


def test_a_link_that_leads_nowhere_is_one_bad_image(grey, tmp_path, capsys) -> None:
    run, folder = grey
    (tmp_path / "images").mkdir()
    shutil.copy(folder / "0" / "000.png", tmp_path / "images")
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    out = tmp_path / "found.csv"
    for _ in range(2):  # the second time over the first table
        with pytest.raises(SystemExit) as stop:
            main(["predict", str(run), str(tmp_path / "images"), "--out", str(out)])
        assert stop.value.code == 1
        assert len(out.read_text().splitlines()) == 2
