"""The cache of decoded images: used when nothing has changed, made anew when anything has, never in the way."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from multimix.data import ArrayDataset, load, pictures
from multimix.data.cache import cache_folder, remember

COUNTS = {"train": {"a": 3, "b": 3}, "test": {"a": 2, "b": 2}}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images decoded so far."""
    found: list[Path] = []
    read = pictures.read

    def counting(path: Path) -> Image.Image:
        found.append(path)
        return read(path)

    monkeypatch.setattr(pictures, "read", counting)
    return found


def train_images(root: Path, **options) -> torch.Tensor:
    data = load("imagefolder", root=root, **options)
    assert isinstance(data.train, ArrayDataset)
    return data.train.images


def test_images_are_decoded_once_and_come_back_the_same(tmp_path: Path, tree, reads) -> None:
    root = tree(tmp_path / "set", COUNTS)
    first = train_images(root)
    assert len(reads) == 10
    os.symlink(root, tmp_path / "alias")
    assert torch.equal(train_images(root), first)
    assert torch.equal(train_images(tmp_path / "alias", per_class=3), first)
    assert len(reads) == 10


def test_a_changed_file_an_added_file_and_another_size_are_noticed(tmp_path: Path, tree, reads) -> None:
    root = tree(tmp_path / "set", COUNTS)
    first = train_images(root)
    path = root / "train" / "a" / "1.png"
    status = path.stat()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(path)
    changed = train_images(root)
    assert changed[1].unique().tolist() == [9]
    assert torch.equal(changed[2:], first[2:])
    assert len(reads) == 10 + 6
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    train_images(root)
    assert len(reads) == 10 + 2 * 6
    Image.new("RGB", (8, 8)).save(root / "train" / "b" / "9.png")
    assert len(train_images(root)) == 7
    assert train_images(root, image_size=4).shape == (7, 3, 4, 4)
    assert train_images(root).shape == (7, 3, 8, 8)


@pytest.mark.parametrize("broken", [b"", b"garbage that is no tensor", None])
def test_a_broken_cache_is_made_anew(tmp_path: Path, tree, own_cache: Path, reads, broken) -> None:
    root = tree(tmp_path / "set", COUNTS)
    first = train_images(root).clone()
    written = sorted((own_cache / "decoded").glob("*.safetensors"))
    assert len(written) == 2
    for path in written:
        path.write_bytes(path.read_bytes()[:-10] if broken is None else broken)
    assert torch.equal(train_images(root), first)
    assert len(reads) == 20
    assert torch.equal(train_images(root), first)
    assert len(reads) == 20


def test_only_the_finished_file_is_left(tmp_path: Path, tree, own_cache: Path) -> None:
    train_images(tree(tmp_path / "set", COUNTS))
    suffixes = {path.suffix for path in (own_cache / "decoded").iterdir()}
    assert suffixes <= {".safetensors", ".lock"}


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: Path, tree, monkeypatch) -> None:
    root = tree(tmp_path / "set", COUNTS)
    first = train_images(root)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="set MULTIMIX_CACHE to a folder that can"):
        assert torch.equal(train_images(root), first)


def test_a_full_disk_costs_a_warning_only(monkeypatch, own_cache: Path) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        found = remember("x", "1", lambda: {"a": torch.ones(2)})
    assert found["a"].tolist() == [1, 1]
    assert not list((own_cache / "decoded").glob("*.safetensors*partial"))


def test_of_several_that_need_it_one_builds(own_cache: Path) -> None:
    built = []
    started = threading.Barrier(4)

    def build() -> dict[str, torch.Tensor]:
        built.append(1)
        return {"a": torch.arange(3)}

    def need() -> None:
        started.wait()
        results.append(remember("shared", "1", build)["a"].tolist())

    results: list[list[int]] = []
    threads = [threading.Thread(target=need) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[0, 1, 2]] * 4
    assert len(built) == 1


def test_the_folder_follows_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("MULTIMIX_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("MULTIMIX_CACHE")
    assert cache_folder() == Path("/two/multimix")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/three/.cache/multimix")


def test_a_long_decoding_shows_how_far_it_is(tmp_path: Path, tree, monkeypatch, capsys) -> None:
    root = tree(tmp_path / "set", {"train": {"a": 200, "b": 1}, "test": {"a": 1, "b": 1}})
    train_images(root)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("multimix.data.progress.PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    train_images(root, image_size=4)
    shown = capsys.readouterr()
    assert "decoding" in shown.err
    assert "201/201" in shown.err
    assert shown.out == ""
