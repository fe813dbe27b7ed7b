"""Where the images of out-of-distribution sets are, in the layouts in which they are distributed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..extras import require
from .cifar import cifar
from .datasets import ArrayDataset
from .listing import EXTENSIONS, Listing, image_files, require_folder, unlabelled
from .odin import ALLOW, ODIN_SETS, is_there, odin_set, unpacked

__all__ = ["find_images", "image_folder"]


def find_images(name: str, place: str, *, download: bool) -> ArrayDataset | Listing:
    """The arrays of a set, or the list of its files; arguments and errors as for `ood_set`."""
    folder = Path(place).expanduser()
    found = _READERS.get(name, _folder)(folder, name, download)
    if not len(found.labels):
        raise ValueError(f"{folder} holds no images, which {name} needs: fill it, or leave the set out")
    return found


def image_folder(name: str, place: str) -> Path:
    """Where to look for changes of a set: `place`, or of ODIN's sets, which may share it, the folder of the one."""
    folder = Path(place).expanduser()
    return (unpacked(name, folder) if name in ODIN_SETS else None) or folder


def _folder(folder: Path, name: str, download: bool) -> Listing:
    """All images at or below a folder."""
    require_folder(folder, f"the images of {name}, in any folders below it")
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(EXTENSIONS)}), which {name} needs: fill it")
    return unlabelled(folder, files)


def _in_classes(folder: Path) -> list[str]:
    """The images of a folder and of the class folders in it: what lies deeper belongs to another set kept there. None
    where the folder is yet to be made."""
    if not folder.is_dir():
        return []
    return [file for file in image_files(folder) if len(Path(file).parts) <= 2]


def _dtd(folder: Path, name: str, download: bool) -> Listing:
    def find() -> Path | None:
        return next((folder / p for p in ("dtd/dtd/images", "dtd/images", "images") if (folder / p).is_dir()), None)

    if find() is None:
        if files := _in_classes(folder):
            return unlabelled(folder, files)
        datasets = require("torchvision.datasets", "train")
        _through_torchvision(lambda: datasets.DTD(folder, download=download), name, folder, datasets.DTD._URL, download)
    return _folder(find() or folder, name, download)


def _svhn(folder: Path, name: str, download: bool) -> ArrayDataset:
    datasets = require("torchvision.datasets", "train")
    if download:
        folder.mkdir(parents=True, exist_ok=True)
    found = _through_torchvision(
        lambda: datasets.SVHN(folder, split="test", download=download),
        f"{name} (test_32x32.mat)",
        folder,
        datasets.SVHN.split_list["test"][0],
        download,
    )
    return ArrayDataset(torch.from_numpy(found.data), torch.from_numpy(found.labels))


def _cifar(folder: Path, name: str, download: bool) -> ArrayDataset | Listing:
    if (folder / "test").is_dir():
        return _folder(folder / "test", name, download)
    if files := _in_classes(folder):
        return unlabelled(folder, files)
    return cifar("cifar10" if name == "cifar10" else "cifar100", folder, download=download).splits["test"]


def _odin(folder: Path, name: str, download: bool) -> Listing:
    return odin_set(name, folder, download=download)


def _tiny_imagenet(folder: Path, name: str, download: bool) -> Listing:
    """TinyImageNet itself, of which crops are made, or ODIN's images."""
    for validation in (folder / "tiny-imagenet-200" / "val", folder / "val"):
        if validation.is_dir():
            return _folder(validation, name, download)
    classes = (folder / "images").is_dir() or any(folder.glob("n????????"))
    return _folder(folder, name, download) if classes and not is_there(name, folder) else _odin(folder, name, download)


_READERS: dict[str, Callable[[Path, str, bool], ArrayDataset | Listing]] = {
    "svhn": _svhn,
    "dtd": _dtd,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "lsun-crop": _odin,
    "lsun-resize": _odin,
    "isun": _odin,
    "tinyimagenet-crop": _tiny_imagenet,
    "tinyimagenet-resize": _tiny_imagenet,
}


def _through_torchvision(make: Callable[[], Any], name: str, folder: Path, url: str, download: bool) -> Any:
    try:
        return make()
    except (RuntimeError, OSError) as error:
        hint = f"check the network, or put {url} there by hand" if download else f"put {url} there, or {ALLOW}"
        raise FileNotFoundError(f"{name} is not in {folder}, or not whole ({error}): {hint}") from error
