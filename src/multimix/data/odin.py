"""LSUN, iSUN and TinyImageNet as the authors of ODIN (Liang et al., ICLR 2018) distribute them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from ..extras import require
from .listing import EXTENSIONS, Listing, image_files, unlabelled

__all__ = ["ODIN_SETS", "is_there", "odin_set", "unpacked"]


@dataclass(frozen=True)
class Layout:
    """An archive TOP.tar.gz that holds TOP/INNER/IMAGE."""

    top: str
    inner: str
    in_pytorch_ood: str | None
    """The class of pytorch-ood that knows address and MD5."""

    @property
    def archive(self) -> str:
        return f"{self.top}.tar.gz"


ODIN_SETS = {
    "lsun-crop": Layout("LSUN", "test", "LSUNCrop"),
    "lsun-resize": Layout("LSUN_resize", "LSUN_resize", "LSUNResize"),
    "isun": Layout("iSUN", "iSUN_patches", None),
    "tinyimagenet-crop": Layout("Imagenet", "test", "TinyImageNetCrop"),
    "tinyimagenet-resize": Layout("Imagenet_resize", "Imagenet_resize", "TinyImageNetResize"),
}

ALLOW = "allow the download (download=True, --ood.download)"

# pytorch-ood has no iSUN. The MD5 is the one that the package `detectors` checks, whose other sums are pytorch-ood's.
ISUN_URL = "https://www.dropbox.com/s/raw/ssz7qxfqae0cca5/iSUN.tar.gz"
ISUN_MD5 = "be77b0f2c26fda898afac5f99645ee70"


def odin_set(name: str, place: Path, *, download: bool) -> Listing:
    """The images of a set, unpacked first where only their archive is there.

    Args:
        name: one of `ODIN_SETS`.
        place: the archive, the folder that it is in or was unpacked in, or the folder that came out of it.
        download: fetch the archive into the folder `place` if neither it nor the images are there.

    Raises:
        FileNotFoundError: no images and no archive, or it cannot be fetched; names the file and its address.
        ValueError: the archive is not the one that was published.
        OSError: it cannot be unpacked.
    """
    folder = unpacked(name, place)
    if folder is None:
        _unpack(name, _whole_archive(name, place, download=download))
        folder = unpacked(name, place)
    files = image_files(folder) if folder else []
    return unlabelled(folder or place, files)


def is_there(name: str, place: Path) -> bool:
    """Whether the images or their archive are at `place`."""
    return unpacked(name, place) is not None or _archive(name, place).is_file()


def unpacked(name: str, place: Path) -> Path | None:
    """The folder with the images themselves; None where there is none.

    It does not look any deeper, so that several sets may share a folder and none is taken for another.
    """
    layout = ODIN_SETS[name]
    archive = _archive(name, place)
    places = [archive.parent / layout.top / layout.inner, archive.parent / layout.top]
    if not archive.is_file():
        places += [place / layout.inner, place]
    return next((folder for folder in places if _holds_images(folder)), None)


def _archive(name: str, place: Path) -> Path:
    return place if place.is_file() else place / ODIN_SETS[name].archive


def _holds_images(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(e.name.lower().endswith(EXTENSIONS) and not e.name.startswith(".") for e in entries)


def _source(name: str) -> tuple[str, str]:
    """Address and MD5 of the archive."""
    known = ODIN_SETS[name].in_pytorch_ood
    if known is None:
        return ISUN_URL, ISUN_MD5
    dataset = getattr(require("pytorch_ood.dataset.img.odin", "evaluate"), known)
    return dataset.url, dataset.tgz_md5


# pytorch-ood's own classes read no archive that is not unpacked, no folder without its archive, and take a folder
# that was left half unpacked for whole, so that only their addresses and sums are used.
def _whole_archive(name: str, place: Path, *, download: bool) -> Path:
    utils = require("torchvision.datasets.utils", "train")
    url, md5 = _source(name)
    archive = _archive(name, place)
    if utils.check_integrity(archive, md5):
        return archive
    file = ODIN_SETS[name].archive
    if archive.is_file() and (not download or archive == place):
        raise ValueError(
            f"{archive} is not {file} as it was published, or not whole: its MD5 is {utils.calculate_md5(archive)}, "
            f"not {md5}: fetch {url} again, or give the folder that you unpacked it to"
        )
    if not download:
        raise FileNotFoundError(
            f"{name} is not in {place}: expected {file} or images in {ODIN_SETS[name].top}/{ODIN_SETS[name].inner}/: "
            f"put {url} there, or {ALLOW}"
        )
    try:
        utils.download_url(url, place, file, md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise FileNotFoundError(
            f"{file}, which {name} needs, cannot be fetched from {url} ({error}): "
            f"check the network, or put it into {place} by hand"
        ) from error
    return archive


def _unpack(name: str, archive: Path) -> None:
    """Beside the archive, whole or not at all."""
    top = ODIN_SETS[name].top
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpacking-") as passing:
            require("torchvision.datasets.utils", "train").extract_archive(str(archive), passing)
            (Path(passing) / top).rename(archive.parent / top)
    except OSError as error:
        raise OSError(f"cannot unpack {archive} into {archive.parent / top} ({error}): unpack it by hand") from error
