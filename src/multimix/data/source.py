"""Where a data set lies, and what is found of it before images are decoded and subsets are chosen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .datasets import ArrayDataset, lacking
from .listing import Listing, class_folders, is_hidden, require_folder, scan

__all__ = ["HELD_OUT", "Files", "Source", "image_folder", "image_folder_places"]

HELD_OUT = {"val": ("val", "valid", "validation"), "test": ("test",)}
"""What the folders of the splits are called that are not trained on."""


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

    Where only one of val and test is there, it is the test set. The folder of val may be called valid or validation.

    Raises:
        FileNotFoundError: `root` or its train folder is missing.
        ValueError: an empty class; a class that the training set has not; val under two names.
    """
    require_folder(root, f"{root}/train/CLASS/IMAGE and {root}/val or {root}/test")
    if not (root / "train").exists() and (advice := _advice(root)):
        raise FileNotFoundError(f"{root} holds no train folder: {advice}")
    classes = class_folders(root / "train")
    splits = {"train": scan(root / "train", classes)}
    for split in HELD_OUT:
        if (place := _place(root, split)).is_dir():
            splits[split] = scan(place, classes)
            if absent := lacking(splits[split].labels, classes):
                warnings.warn(
                    f"{place} holds no images of {absent}: accuracies are over the other classes", stacklevel=2
                )
    if "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
    return Source(splits, tuple(classes))


def image_folder_places(root: Path) -> list[Path]:
    """What `image_folder` reads."""
    return [root / "train", *(root / name for names in HELD_OUT.values() for name in names)]


def _place(root: Path, split: str) -> Path:
    """The folder of a split.

    Raises:
        ValueError: there are several.
    """
    there = [root / name for name in HELD_OUT[split] if (root / name).is_dir()]
    if len(there) > 1:
        raise ValueError(f"{there[0]} and {there[1]} are both there: which is the validation split? Remove the other")
    return there[0] if there else root / split


def _advice(root: Path) -> str:
    """What may be meant by a folder without training images; "" if nothing is known."""
    splits = {"train", *(name for names in HELD_OUT.values() for name in names)}
    if root.name in splits and (root.parent / "train").is_dir():
        return f"did you mean {root.parent}?"
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    if whole := [path for path in folders if (path / "train").is_dir()]:
        return f"did you mean {whole[0]}?"
    alike = {path.name: path.name.lower().removesuffix("ing") for path in folders}
    if wrong := [f"{name} to {split}" for name, split in alike.items() if split in splits and name != split]:
        return f"rename {' and '.join(wrong)}"
    if not folders or any(path.name in splits for path in folders):
        return ""
    return (
        f"if its folders are classes, put them into {root / 'train'}; val_per_class=N (--val-per-class N) then holds "
        "images out"
    )
