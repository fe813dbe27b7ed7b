"""Folders that are links, links that lead back, and names that are not UTF-8."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multimix.data import load
from multimix.data.listing import image_files

COUNTS = {"train": {"cat": 2, "dog": 3}, "test": {"cat": 1, "dog": 1}}
BAD = os.fsdecode(b"caf\xe9 \xc3\xbc")
"""The name of a folder made under Latin-1, and beside it a letter that is UTF-8."""


@pytest.fixture
def root(tmp_path: Path, tree) -> Path:
    return tree(tmp_path / "set", COUNTS)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/cat/loop", ".."),
        ("train/cat/loop", "."),
        ("train/cat/loop", "../.."),
        ("train/cat/deeper/loop", ".."),
        ("train/loop", "."),
        ("train/loop", ".."),
    ],
)
def test_a_link_that_leads_back_is_refused_by_name(root: Path, link: str, target: str) -> None:
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(target)
    with pytest.raises(ValueError, match=rf"^[^\n]*set/{link} [^\n]* leads back to [^\n]*: remove the link$"):
        load("imagefolder", root=root)


def test_links_that_lead_back_in_several_steps_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "train" / "cat" / "a").symlink_to("../dog")
    assert len(image_files(root / "train" / "cat")) == 5
    (root / "train" / "dog" / "b").symlink_to("../cat")
    with pytest.raises(ValueError, match=r"cat/a/b is a link that leads back to .*train/cat"):
        load("imagefolder", root=root)
    (root / "train" / "cat" / "a").unlink()
    (root / "train" / "dog" / "b").unlink()
    # A class folder that is a link itself, with a link to where it is used: no real folder holds the other.
    shutil.move(root / "train" / "cat", tmp_path / "cats")
    (root / "train" / "cat").symlink_to(tmp_path / "cats")
    assert len(load("imagefolder", root=root).train) == 5
    (tmp_path / "cats" / "loop").symlink_to(root / "train")
    with pytest.raises(ValueError, match=r"train/cat/loop is a link that leads back to .*train"):
        load("imagefolder", root=root)


def test_folders_that_are_links_are_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = image_files(root / "train")
    (tmp_path / "elsewhere").mkdir()
    for folder in ("train/cat", "train", "test"):
        place = shutil.move(root / folder, tmp_path / "elsewhere")
        (root / folder).symlink_to(place)
    (tmp_path / "alias").symlink_to(root)
    for place in (tmp_path / "alias", root):
        assert image_files(place / "train") == expected
        assert len(load("imagefolder", root=place).train) == 5
    # Seen from a folder whose name begins as that of the linked one, and that is no folder of the images.
    (tmp_path / "elsewhere" / "work").mkdir()
    (tmp_path / "elsewhere" / "train" / "dog" / "more").symlink_to("../../work")
    monkeypatch.chdir(tmp_path / "elsewhere" / "work")
    assert image_files(Path("../../set/train")) == expected


def test_the_order_does_not_depend_on_the_file_system(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("z", "a/c", "a/b"):
        (root / "train" / "cat" / name).mkdir(parents=True)
        shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / name / "0.png")
    found, walk = image_files(root / "train" / "cat"), os.walk
    assert found == ["0.png", "1.png", "a/b/0.png", "a/c/0.png", "z/0.png"]

    def backwards(folder, **options):
        return reversed([(where, folders, files[::-1]) for where, folders, files in walk(folder, **options)])

    monkeypatch.setattr(os, "walk", backwards)
    assert image_files(root / "train" / "cat") == found


def test_files_are_not_looked_at_when_folders_are_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counting(function: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def count(path: str, *args: object, **kwargs: object) -> os.stat_result:
            looked.append(os.fspath(path))
            return function(path, *args, **kwargs)

        return count

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    assert len(image_files(root)) == 7
    assert looked
    assert not [path for path in looked if path.endswith(".png")]


def test_a_folder_that_cannot_be_read_is_not_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = root / "train" / "dog" / "more"
    refused.mkdir()
    scan = os.scandir

    def failing(place: str) -> object:
        if os.path.abspath(place) == str(refused):
            raise OSError(errno.EIO, "Input/output error", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(OSError, match=r"Input/output error: '.*train/dog/more'"):
        load("imagefolder", root=root)


@pytest.mark.parametrize("place", ["train", "test"])
def test_a_class_whose_name_is_not_utf8_is_refused(root: Path, place: str) -> None:
    (root / place / "cat").rename(root / place / BAD)
    message = rf"^the name 'caf\\xe9 ü' in [^\n]*{place} is not valid UTF-8[^\n]*: rename it$"
    with pytest.raises(ValueError, match=message):
        load("imagefolder", root=root)


def test_a_domain_whose_name_is_not_utf8_is_refused(tmp_path: Path, tree) -> None:
    root = tree(tmp_path / "home", {name: {"cat": 1, "dog": 1} for name in ("art", "clipart", "photo")})
    (root / "clipart").rename(root / BAD)
    with pytest.raises(ValueError, match=r"^the name 'caf\\xe9 ü' in .*home is not valid UTF-8"):
        load("domains", root=root, held_out="art")


def test_class_names_of_arrays_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.arange(2)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "set.npz", class_names=np.array(["cat", BAD]), **arrays)
    with pytest.raises(ValueError, match=r"^the name 'caf\\xe9 ü' in .*set\.npz is not valid UTF-8"):
        load("imagefolder", root=tmp_path / "set.npz")
