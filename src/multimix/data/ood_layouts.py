"""Where the images of out-of-distribution sets are, in the layouts in which they are distributed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..extras import require
from . import cifar
from .datasets import ArrayDataset
from .listing import EXTENSIONS, Listing, image_files, require_folder, unlabelled
from .odin import ALLOW, is_there, odin_set, unpacked
from .source import Files

__all__ = ["find_images", "read_from"]


def find_images(name: str, place: str, *, download: bool) -> ArrayDataset | Listing:
    """The arrays of a set, or the list of its files; arguments and errors as for `ood_set`."""
    folder = Path(place).expanduser()
    found = _LAYOUTS.get(name, _ANY).read(folder, name, download)
    if not len(found.labels):
        raise ValueError(f"{folder} holds no images, which {name} needs: fill it, or leave the set out")
    return found


def read_from(name: str, place: str) -> Files:
    """What a set is read from, of what is there; others may lie in the same folder."""
    folder = Path(place).expanduser()
    root, places = _LAYOUTS.get(name, _ANY).files(folder, name)
    return Files(root, places and [place for place in places if place.exists()])


class _Layout(NamedTuple):
    read: Callable[[Path, str, bool], ArrayDataset | Listing]
    files: Callable[[Path, str], Files]


def _whole(folder: Path, name: str) -> Files:
    return Files(folder)


def _folder(folder: Path, name: str, download: bool) -> Listing:
    """All images at or below a folder."""
    require_folder(folder, f"the images of {name}, in any folders below it")
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(EXTENSIONS)}), which {name} needs: fill it")
    return unlabelled(folder, files)


def _in_classes(folder: Path) -> list[Path]:
    """The images of a folder and of the class folders in it: what lies deeper belongs to another set kept there. None
    where the folder is yet to be made."""
    if not folder.is_dir():
        return []
    return [folder / file for file in image_files(folder) if len(Path(file).parts) <= 2]


def _listed(folder: Path, places: Sequence[Path], name: str) -> Listing:
    """The images of one folder in `folder`, or these images themselves."""
    if len(places) == 1 and places[0].is_dir():
        return _folder(places[0], name, download=False)
    return unlabelled(folder, [os.path.relpath(place, folder) for place in places])


def _dtd_pictures(folder: Path) -> list[Path]:
    inner = (folder / place for place in ("dtd/dtd/images", "dtd/images", "images"))
    return [place for place in inner if place.is_dir()][:1] or _in_classes(folder)


def _dtd(folder: Path, name: str, download: bool) -> Listing:
    if not _dtd_pictures(folder):
        datasets = require("torchvision.datasets", "train")
        _through_torchvision(lambda: datasets.DTD(folder, download=download), name, folder, datasets.DTD._URL, download)
    return _listed(folder, _dtd_pictures(folder), name)


def _dtd_files(folder: Path, name: str) -> Files:
    return Files(folder, _dtd_pictures(folder))


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


def _svhn_files(folder: Path, name: str) -> Files:
    return Files(folder, [folder / require("torchvision.datasets", "train").SVHN.split_list["test"][1]])


def _cifar_pictures(folder: Path, name: str) -> list[Path]:
    if (folder / "test").is_dir():
        return [folder / "test"]
    # Beside arrays or batches, class folders are another set's.
    return [] if any(place.exists() for place in cifar.places(name, folder)) else _in_classes(folder)


def _cifar(folder: Path, name: str, download: bool) -> ArrayDataset | Listing:
    if pictures := _cifar_pictures(folder, name):
        return _listed(folder, pictures, name)
    splits = cifar.cifar("cifar10" if name == "cifar10" else "cifar100", folder, download=download).splits
    if "test" not in splits:
        raise FileNotFoundError(f"{folder} holds training images of {name} and no test/, which is what is evaluated")
    return splits["test"]


def _cifar_files(folder: Path, name: str) -> Files:
    return Files(folder, _cifar_pictures(folder, name) or cifar.places(name, folder))


def _odin(folder: Path, name: str, download: bool) -> Listing:
    return odin_set(name, folder, download=download)


def _odin_files(folder: Path, name: str) -> Files:
    images = unpacked(name, folder)
    return Files(images) if images else Files(folder, [])


def _tiny_imagenet_pictures(folder: Path, name: str) -> list[Path]:
    """Of TinyImageNet itself."""
    for validation in (folder / "tiny-imagenet-200" / "val", folder / "val"):
        if validation.is_dir():
            return [validation]
    classes = (folder / "images").is_dir() or any(folder.glob("n????????"))
    return [folder] if classes and not is_there(name, folder) else []


def _tiny_imagenet(folder: Path, name: str, download: bool) -> Listing:
    """TinyImageNet itself, of which crops are made, or ODIN's images."""
    pictures = _tiny_imagenet_pictures(folder, name)
    return _listed(folder, pictures, name) if pictures else _odin(folder, name, download)


def _tiny_imagenet_files(folder: Path, name: str) -> Files:
    pictures = _tiny_imagenet_pictures(folder, name)
    return Files(folder, pictures) if pictures else _odin_files(folder, name)


_ANY = _Layout(_folder, _whole)
_LAYOUTS: dict[str, _Layout] = {
    "svhn": _Layout(_svhn, _svhn_files),
    "dtd": _Layout(_dtd, _dtd_files),
    **dict.fromkeys(("cifar10", "cifar100"), _Layout(_cifar, _cifar_files)),
    **dict.fromkeys(("lsun-crop", "lsun-resize", "isun"), _Layout(_odin, _odin_files)),
    **dict.fromkeys(("tinyimagenet-crop", "tinyimagenet-resize"), _Layout(_tiny_imagenet, _tiny_imagenet_files)),
}


def _through_torchvision(make: Callable[[], Any], name: str, folder: Path, url: str, download: bool) -> Any:
    try:
        return make()
    except (RuntimeError, OSError) as error:
        hint = f"check the network, or put {url} there by hand" if download else f"put {url} there, or {ALLOW}"
        raise FileNotFoundError(f"{name} is not in {folder}, or not whole ({error}): {hint}") from error
