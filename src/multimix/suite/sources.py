"""Which files below its folder a data set is read from: kept results depend on these, and on nothing beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["places"]


def places(data: str, root: Path) -> list[Path]:
    """The files and folders that `multimix.data.load(data, root=root)` reads, of those that are there.

    Args:
        data: name of the data set; of one that is not known here, everything below its folder counts.
        root: its folder, or its `.npz` file.
    """
    root = root.expanduser()
    reader = _READERS.get(data)
    if reader is None or root.suffix == ".npz" or not root.is_dir():
        return [root]
    return [place for place in reader(data, root) if place.exists()]


def _cifar(data: str, root: Path) -> list[Path]:
    if (root / f"{data}.npz").is_file():
        return [root / f"{data}.npz"]
    if (root / "train").is_dir():
        return _image_folder(data, root)
    return [root / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[data]]


def _tiny_imagenet(data: str, root: Path) -> list[Path]:
    if not (root / "train").is_dir() and (root / "tiny-imagenet-200").is_dir():
        root = root / "tiny-imagenet-200"
    return [root / name for name in ("train", "val", "words.txt")]


def _imagenet(data: str, root: Path) -> list[Path]:
    return [root / name for name in ("train", "val", "meta.bin", "ILSVRC2012_devkit_t12.tar.gz")]


def _image_folder(data: str, root: Path) -> list[Path]:
    """Without training images, library models are evaluated on `test`, `val`, or class folders in `root` itself."""
    if (root / "train").is_dir():
        return [root / split for split in ("train", "val", "test")]
    return next(([root / split] for split in ("test", "val") if (root / split).is_dir()), _folders(data, root))


def _folders(data: str, root: Path) -> list[Path]:
    return [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


_READERS: Mapping[str, Callable[[str, Path], list[Path]]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "tinyimagenet": _tiny_imagenet,
    "imagenet": _imagenet,
    "imagefolder": _image_folder,
    "domains": _folders,
}
