"""Where a data set lies, and what is found of it before images are decoded and subsets are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .datasets import ArrayDataset
from .listing import Listing, class_folders, require_folder, scan

__all__ = ["Files", "Source", "image_folder", "image_folder_places"]


class Files(NamedTuple):
    """What something is read from: it has changed when one of these has, and not with what lies beside them."""

    root: Path
    """What their names are relative to; they are all of it unless `places` says which."""
    places: Sequence[Path] | None = None
    """The files and folders."""


class Source(NamedTuple):
    """The splits that are there, of "train", "val" and "test" (for domain folders: the domains, the held-out one last),
    and the names of the classes."""

    splits: Mapping[str, ArrayDataset | Listing]
    class_names: tuple[str, ...]


def image_folder(root: Path) -> Source:
    """`root`/train/CLASS/IMAGE, and the same with val, test or both. Classes are numbered in sorted order.

    Where only one of val and test is there, it is the test set.

    Raises:
        FileNotFoundError: `root` or its train folder is missing.
        ValueError: an empty class; a class that the training set has not.
    """
    require_folder(root, f"{root}/train/CLASS/IMAGE and {root}/val or {root}/test")
    classes = class_folders(root / "train")
    splits = {"train": scan(root / "train", classes)}
    for split in ("val", "test"):
        if (root / split).is_dir():
            splits[split] = scan(root / split, classes)
    if "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
    return Source(splits, tuple(classes))


def image_folder_places(root: Path) -> list[Path]:
    """What `image_folder` reads."""
    return [root / split for split in ("train", "val", "test")]
