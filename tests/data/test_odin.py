"""ODIN's LSUN, iSUN and TinyImageNet: archives as they are distributed, and what can be wrong with them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytorch_ood.dataset.img import LSUNCrop, LSUNResize, TinyImageNetCrop, TinyImageNetResize
from torchvision.datasets import utils

from multimix.data import ArrayDataset, odin
from multimix.data.ood_layouts import read_from
from multimix.data.ood_sets import check_set, ood_set

CLASSES = {
    "lsun-crop": LSUNCrop,
    "lsun-resize": LSUNResize,
    "tinyimagenet-crop": TinyImageNetCrop,
    "tinyimagenet-resize": TinyImageNetResize,
}
FILES = {
    "lsun-crop": "LSUN.tar.gz",
    "lsun-resize": "LSUN_resize.tar.gz",
    "isun": "iSUN.tar.gz",
    "tinyimagenet-crop": "Imagenet.tar.gz",
    "tinyimagenet-resize": "Imagenet_resize.tar.gz",
}
INSIDE = {
    "lsun-crop": "LSUN/test",
    "lsun-resize": "LSUN_resize/LSUN_resize",
    "isun": "iSUN/iSUN_patches",
    "tinyimagenet-crop": "Imagenet/test",
    "tinyimagenet-resize": "Imagenet_resize/Imagenet_resize",
}
every_set = pytest.mark.parametrize("name", list(FILES))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with small archives of all sets, 0 to 3 red, from which everything is downloaded."""
    folder = tmp_path / "server"
    for name, inside in INSIDE.items():
        images = folder / name / inside
        images.mkdir(parents=True)
        for k in range(4):
            pixels = np.full((36 if name.endswith("crop") else 32,) * 2 + (3,), (k, 7, len(name)), np.uint8)
            Image.fromarray(pixels).save(images / f"{k}.png")
        # macOS adds such files to archives; they are not images
        (images / "._0.png").write_bytes(b"resource fork")
        with tarfile.open(folder / FILES[name], "w:gz") as archive:
            archive.add(folder / name / inside.split("/")[0], inside.split("/")[0])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    for name, file in FILES.items():
        url = f"http://127.0.0.1:{web.server_port}/{file}"
        md5 = hashlib.md5((folder / file).read_bytes()).hexdigest()
        if name in CLASSES:
            monkeypatch.setattr(CLASSES[name], "url", url)
            monkeypatch.setattr(CLASSES[name], "tgz_md5", md5)
        else:
            monkeypatch.setattr(odin, "ISUN_URL", url)
            monkeypatch.setattr(odin, "ISUN_MD5", md5)
    yield folder
    web.shutdown()
    web.server_close()


def reds(name: str, place: Path, *, download: bool = False) -> list[int]:
    """The images of a set, by their colour."""
    found = ood_set(f"{name}={place}", image_size=32, download=download)
    assert isinstance(found, ArrayDataset)
    assert found.images.shape[1:] == (3, 32, 32)
    assert (found.images[:, 1] == 7).all()
    assert (found.images[:, 2] == len(name)).all()
    return found.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", list(CLASSES))
def test_the_layout_is_that_of_pytorch_ood(name: str) -> None:
    layout, known = odin.ODIN_SETS[name], CLASSES[name]
    assert known.base_folder.rstrip("/") == f"{layout.top}/{layout.inner}"
    assert known.filename == f"{layout.top}.tar.gz"
    assert odin._source(name) == (known.url, known.tgz_md5)


@every_set
def test_downloaded_once(name: str, tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "new" / "place"
    assert reds(name, place, download=True) == [0, 1, 2, 3]
    monkeypatch.setattr(utils, "download_url", lambda *_: pytest.fail("fetched again"))
    monkeypatch.setattr(utils, "extract_archive", lambda *_: pytest.fail("unpacked again"))
    assert reds(name, place, download=True) == [0, 1, 2, 3]
    assert not [entry for entry in os.listdir(place) if entry.startswith(".")]


@every_set
def test_an_archive_is_unpacked_and_a_folder_taken_wherever_it_is(name: str, tmp_path: Path, server: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    archive = (server / FILES[name]).rename(place / FILES[name])
    check_set(f"{name}={archive}")
    for given in (archive, place, place / INSIDE[name].split("/")[0], place / INSIDE[name]):
        assert reds(name, given) == [0, 1, 2, 3], given
    archive.unlink()
    assert reds(name, place) == [0, 1, 2, 3]


def test_sets_share_a_folder_and_none_is_taken_for_another(tmp_path: Path, server: Path) -> None:
    place = tmp_path / "place"
    textures = place / "dtd" / "images" / "banded"
    textures.mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(textures / "0.jpg")
    for name in FILES:
        with pytest.raises(FileNotFoundError, match=f"{name} is not in {place}: expected {FILES[name]} or images in"):
            reds(name, place)
        assert reds(name, place, download=True) == [0, 1, 2, 3]
    folders = {read_from(name, str(place)).root for name in FILES}
    assert len(folders) == len(FILES)


def test_tiny_imagenet_itself_comes_before_odins_images(tmp_path: Path, server: Path) -> None:
    place = tmp_path / "place"
    for k in range(3):
        path = place / "n01443537" / f"{k}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path)
    for given in (place, place / "n01443537"):
        for name in ("tinyimagenet-crop", "tinyimagenet-resize"):
            found = ood_set(f"{name}={given}", image_size=32, download=True)
            assert isinstance(found, ArrayDataset)
            assert found.images.shape == (3, 3, 32, 32)
            assert (found.images.int() - 90).abs().max() <= 1
    assert not list(place.glob("*.tar.gz"))


def test_crops_are_cut_not_resized(tmp_path: Path) -> None:
    columns = np.arange(36, dtype=np.uint8)[None, :, None]
    folder = tmp_path / "LSUN" / "test"
    folder.mkdir(parents=True)
    for k in range(8):
        Image.fromarray(np.broadcast_to(columns, (36, 36, 3)).copy()).save(folder / f"{k}.png")
    found = ood_set(f"lsun-crop={tmp_path}", image_size=32)
    assert isinstance(found, ArrayDataset)
    assert (found.images[:, 0].int().diff(dim=2) == 1).all()
    assert len(found.images[:, 0, 0, 0].unique()) > 1
    with pytest.raises(ValueError, match=r"images of 36x36 pixels in .* cropped to the 64 .* use lsun-resize"):
        check_set(f"lsun-crop={tmp_path}", image_size=64)


def test_an_archive_that_is_not_whole_is_refused_or_fetched_again(tmp_path: Path, server: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    archive = place / "LSUN.tar.gz"
    archive.write_bytes((server / "LSUN.tar.gz").read_bytes()[:-20])
    for given, download in ((place, False), (archive, False), (archive, True)):
        with pytest.raises(
            ValueError, match=f"{archive} is not LSUN.tar.gz as it was published, or not whole: its MD5"
        ):
            check_set(f"lsun-crop={given}", download=download)
    assert reds("lsun-crop", place, download=True) == [0, 1, 2, 3]


def test_a_download_that_is_not_what_was_published_is_refused(
    tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LSUNCrop, "tgz_md5", "0" * 32)
    with pytest.raises(FileNotFoundError, match=r"LSUN.tar.gz, which lsun-crop needs, cannot be fetched .*corrupted"):
        check_set(f"lsun-crop={tmp_path / 'place'}", download=True)
    assert not (tmp_path / "place" / "LSUN").exists()


@every_set
def test_without_a_network_file_and_address_are_named(name: str, tmp_path: Path, server: Path) -> None:
    (server / FILES[name]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        check_set(f"{name}={tmp_path / 'place'}", download=True)
    told = str(error.value)
    assert told.startswith(f"{FILES[name]}, which {name} needs, cannot be fetched from http://127.0.0.1")
    assert told.endswith(f"check the network, or put it into {tmp_path / 'place'} by hand")
    assert "\n" not in told


def test_what_was_left_half_unpacked_is_not_taken_for_the_set(
    tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, extract = tmp_path / "place", utils.extract_archive

    def interrupted(archive: str, folder: str) -> None:
        extract(archive, folder)
        (Path(folder) / "iSUN" / "iSUN_patches" / "3.png").unlink()
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(utils, "extract_archive", interrupted)
        with pytest.raises(OSError, match=r"cannot unpack .*iSUN.tar.gz into .*iSUN \(No space left on device\)"):
            reds("isun", place, download=True)
    assert os.listdir(place) == ["iSUN.tar.gz"]
    assert reds("isun", place) == [0, 1, 2, 3]


def test_an_archive_without_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iSUN").mkdir()
    with tarfile.open(tmp_path / "iSUN.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "iSUN", "iSUN")
    monkeypatch.setattr(odin, "ISUN_MD5", hashlib.md5((tmp_path / "iSUN.tar.gz").read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="holds no images, which isun needs"):
        check_set(f"isun={tmp_path}")
