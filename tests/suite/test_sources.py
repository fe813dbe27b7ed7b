"""What kept results depend on: the files that a data set is read from, and no others below its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from multimix import data
from multimix.data import cifar
from multimix.data.catalogue import read_from
from multimix.suite import subjects
from multimix.suite.fingerprint import fingerprint
from multimix.suite.libraries import _files, _load


def classes(folder: Path) -> None:
    for k, label in enumerate(("ant", "bee")):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 40 + 80 * k, np.uint8)).save(folder / label / "0.png")


def image_folder(root: Path) -> None:
    for split in ("train", "val", "test"):
        classes(root / split)


def domain_folders(root: Path) -> None:
    for domain in ("art", "photo"):
        classes(root / domain)


def arrays(root: Path) -> None:
    root.mkdir()
    images, labels = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10)
    np.savez(root / "cifar10.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def tiny(root: Path) -> None:
    classes(root / "tiny-imagenet-200" / "train")
    classes(root / "tiny-imagenet-200" / "val")
    (root / "tiny-imagenet-200" / "words.txt").write_text("ant\tworker\nbee\tqueen\n")


def imagenet(root: Path) -> None:
    classes(root / "train")
    classes(root / "val")
    torch.save(({"ant": ("worker",), "bee": ("queen",)}, ["ant", "bee"]), root / "meta.bin")


def read(name: str, root: Path) -> tuple[list[str], list[int], list[int]]:
    held_out = "photo" if name == "domains" else None
    found = data.load(name, root=root, held_out=held_out, download=False)  # type: ignore[arg-type]
    return list(found.class_names), found.train.labels.tolist(), found.test.labels.tolist()


def identity(name: str, root: Path) -> str:
    subjects._state.cache_clear()  # another process
    return subjects.make_identity("weights", files=read_from(name, root))


def places(name: str, root: Path) -> list[Path]:
    found = read_from(name, root).places
    assert found is not None
    return list(found)


LAYOUTS = [
    ("imagefolder", image_folder),
    ("domains", domain_folders),
    ("cifar10", arrays),
    ("tinyimagenet", tiny),
    ("imagenet", imagenet),
]


@pytest.mark.parametrize(("name", "lay_out"), LAYOUTS)
def test_what_a_set_is_read_from_and_nothing_beside_it(
    name: str, lay_out: Callable[[Path], None], tmp_path: Path
) -> None:
    root = tmp_path / "set"
    lay_out(root)
    # Results that were kept when everything in the folder counted still hold.
    assert fingerprint(*read_from(name, root)) == fingerprint(root)
    before, found = identity(name, root), read(name, root)
    (root / "loose.txt").write_text("no part of it")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "file").write_text("no part of it")
    if name != "domains":  # of which every folder is one
        classes(root / "svhn")
        (root / "runs" / "erm").mkdir(parents=True)
        (root / "runs" / "erm" / "config.json").write_text("{}")
    assert identity(name, root) == before
    for place in places(name, root):
        target = tmp_path / "alone" / place.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if place.is_dir() else shutil.copy)(place, target)
    assert read(name, tmp_path / "alone") == found
    for place in places(name, root):
        file = place if place.is_file() else next(path for path in place.rglob("*") if path.is_file())
        before = identity(name, root)
        os.utime(file, ns=(5, 5))
        assert identity(name, root) != before, file


@pytest.mark.parametrize(("name", "kind"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_batches_of_cifar(name: str, kind: type[datasets.CIFAR10], tmp_path: Path) -> None:
    for base in (datasets.CIFAR10.base_folder, datasets.CIFAR100.base_folder):
        (tmp_path / base).mkdir()
        (tmp_path / base / "train").write_text(base)
    (tmp_path / kind.filename).write_text("an archive")
    assert places(name, tmp_path) == [tmp_path / kind.base_folder]
    classes(tmp_path / "train")
    assert places(name, tmp_path) == [tmp_path / "train"]
    with pytest.raises(ValueError, match="cifar10 has 10 classes"):  # as it is read
        cifar.cifar("cifar10", tmp_path, download=False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_archive_and_lock_of_a_download_are_not_the_data(name: str, tmp_path: Path) -> None:
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    (tmp_path / kind.base_folder).mkdir()
    (tmp_path / kind.base_folder / "train").write_text("images")
    before = identity(name, tmp_path)
    (tmp_path / kind.filename).write_text("archive")
    (tmp_path / f".{name}.lock").write_text("")
    assert identity(name, tmp_path) == before
    (tmp_path / kind.base_folder / "train").write_text("other images")
    assert identity(name, tmp_path) != before


def test_library_models_on_the_only_split(tmp_path: Path) -> None:
    def of_library() -> list[str]:
        root, places = _files("imagefolder", tmp_path)
        return sorted(place.relative_to(root).as_posix() for place in places or ())

    classes(tmp_path)
    assert of_library() == ["ant", "bee"]
    for split in ("val", "test"):
        classes(tmp_path / split)
        assert of_library() == [f"{split}/ant", f"{split}/bee"]
    _, test, names = _load("imagefolder", tmp_path, None)
    assert (len(test), list(names)) == (2, ["ant", "bee"])
    classes(tmp_path / "train")
    assert of_library() == ["test", "train", "val"]


def test_arrays_given_as_a_file_and_what_is_not_there(tmp_path: Path) -> None:
    arrays(tmp_path / "set")
    file = tmp_path / "set" / "cifar10.npz"
    assert fingerprint(*read_from("imagefolder", file)) == fingerprint(file)
    assert identity("imagefolder", tmp_path / "lost") != identity("imagefolder", file)
