"""CIFAR-10 and CIFAR-100, in the form of their authors, as folders of images, or as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from ..extras import require
from .cache import cache_folder
from .datasets import ArrayDataset
from .npz import npz
from .source import Source, image_folder, image_folder_places

__all__ = ["MEAN", "STD", "cifar", "places"]

# The values that the code bases of the mixup lineage use for both sets.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def cifar(name: Literal["cifar10", "cifar100"], root: Path | None, *, download: bool) -> Source:
    """The set in `root`, whichever way it is laid out there; downloaded into `root` if it is not there.

    Looked for are arrays (`root` itself or NAME.npz in it), train/ and test/ with class folders, and the
    authors' batches (`cifar-10-batches-py` or `cifar-100-python`). Without a `root`, it is in the cache folder.

    Raises:
        FileNotFoundError: it is not there, and could or should not be downloaded.
        ValueError: what is there has another number of classes.
    """
    root = cache_folder() / "datasets" if root is None else root
    classes = int(name.removeprefix("cifar"))
    if arrays := _arrays(name, root):
        source = npz(arrays)
    elif (root / "train").is_dir():
        source = image_folder(root)
    else:
        source = _batches(name, root, download=download)
    if len(source.class_names) != classes:
        raise ValueError(
            f"{name} has {classes} classes, but {root} holds {len(source.class_names)}: "
            "give its own folder, or use the data set imagefolder for another one"
        )
    return source


def places(name: str, root: Path) -> list[Path]:
    """What `cifar` reads in `root`; arguments as for it."""
    if arrays := _arrays(name, root):
        return [arrays]
    return image_folder_places(root) if (root / "train").is_dir() else [root / _kind(name).base_folder]


def _arrays(name: str, root: Path) -> Path | None:
    arrays = root if root.suffix == ".npz" else root / f"{name}.npz"
    return arrays if arrays == root or arrays.is_file() else None


def _kind(name: str) -> Any:
    datasets = require("torchvision.datasets", "train")
    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def _batches(name: Literal["cifar10", "cifar100"], root: Path, *, download: bool) -> Source:
    # torch depends on it
    from filelock import FileLock

    kind = _kind(name)
    try:
        both = [kind(root, train=train) for train in (True, False)]
    except RuntimeError:
        reason = "download is off"
        try:
            if download:
                root.mkdir(parents=True, exist_ok=True)
                # Of several processes, one downloads and the others wait.
                with FileLock(root / f".{name}.lock"):
                    kind(root, download=True)
            both = [kind(root, train=train) for train in (True, False)]
        except (OSError, RuntimeError) as error:
            reason = f"the download failed: {error}" if download else reason
            raise FileNotFoundError(
                f"{name} is not in {root}, and {reason}. Put {kind.base_folder}/ (unpacked from {kind.url}) "
                f"there, or {name}.npz, or train/ and test/ with a folder of images for each class"
            ) from error
    splits = {
        split: ArrayDataset(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets, device="cpu")
        )
        for split, part in zip(("train", "test"), both, strict=True)
    }
    return Source(splits, tuple(both[0].classes))
