"""TinyImageNet and ImageNet, in the forms in which they are distributed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ..extras import require
from .listing import Listing, class_folders, require_folder, scan
from .source import Source

__all__ = ["MEAN", "STD", "imagenet", "imagenet_places", "tiny_imagenet", "tiny_imagenet_places"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tiny_imagenet(root: Path) -> Source:
    """`root` (or its folder tiny-imagenet-200): train/WNID/images/*.JPEG and val/images with val_annotations.txt.

    The validation images are the test set, since the labels of the test images were never published. They can
    also lie in class folders, val/WNID. words.txt, if there, names the classes.

    Raises:
        FileNotFoundError: a folder or the annotations are missing.
        ValueError: an empty class, or an annotation that names an unknown class.
    """
    root = _tiny_root(root)
    require_folder(root / "train", "TinyImageNet, unpacked from http://cs231n.stanford.edu/tiny-imagenet-200.zip")
    wnids = class_folders(root / "train")
    train = scan(root / "train", wnids)
    annotated = (root / "val" / "images").is_dir()
    test = (_annotated if annotated else scan)(root / "val", wnids)
    words = {}
    if (root / "words.txt").is_file():
        lines = (root / "words.txt").read_text(encoding="utf-8").splitlines()
        words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return Source({"train": train, "test": test}, _names(wnids, words))


def tiny_imagenet_places(root: Path) -> list[Path]:
    """What `tiny_imagenet` reads."""
    return [_tiny_root(root) / name for name in ("train", "val", "words.txt")]


def _tiny_root(root: Path) -> Path:
    inner = root / "tiny-imagenet-200"
    return inner if not (root / "train").is_dir() and inner.is_dir() else root


def _annotated(folder: Path, wnids: Sequence[str]) -> Listing:
    annotations = folder / "val_annotations.txt"
    if not annotations.is_file():
        raise FileNotFoundError(f"{annotations} does not exist: it gives the classes of {folder / 'images'}")
    index = {wnid: label for label, wnid in enumerate(wnids)}
    names, labels = [], []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        name, wnid, *_ = [*line.split("\t"), "", ""]
        if wnid not in index:
            raise ValueError(
                f"line {number} of {annotations} gives {name!r} the class {wnid!r}, which has no folder in "
                f"{folder.parent / 'train'}"
            )
        names.append(f"images/{name}")
        labels.append(index[wnid])
    return Listing(folder, names, torch.tensor(labels, dtype=torch.int64, device="cpu"))


def imagenet(root: Path) -> Source:
    """`root` with train/WNID/*.JPEG and val/WNID/*.JPEG, or with the archives as distributed, which are unpacked.

    The validation images are the test set. They can also lie flat in val/, where the development kit
    (ILSVRC2012_devkit_t12.tar.gz) or torchvision's meta.bin tells their classes; either also names the classes.

    Raises:
        FileNotFoundError: a folder is missing and its archive too, or an archive is incomplete.
        ValueError: an empty class; flat validation images without the development kit; a class still in an archive.
    """
    archives = require("torchvision.datasets.imagenet", "train")
    require_folder(root, "ImageNet's train/ and val/, or its archives")
    words, val_wnids = _meta(root)
    for split, unpack in (("train", archives.parse_train_archive), ("val", archives.parse_val_archive)):
        archive = root / archives.ARCHIVE_META[split][0]
        if not (root / split).is_dir() and archive.is_file():
            _unpack(archive, root / split, unpack)
        require_folder(root / split, f"ImageNet's {split} images in class folders, or {archive}")
    if left := next((root / "train").glob("*.tar"), None):
        raise ValueError(
            f"{left} is not unpacked: unpack every class into a folder of its name, and remove the archive"
        )
    wnids = class_folders(root / "train")
    names = _names(wnids, words)
    train, loose = scan(root / "train", wnids), sorted((root / "val").glob("*.JPEG"))
    if not loose:
        return Source({"train": train, "test": scan(root / "val", wnids)}, names)
    if len(val_wnids) != len(loose):
        raise ValueError(
            f"{root / 'val'} holds {len(loose)} images outside class folders, and the development kit gives the "
            f"classes of {len(val_wnids)}: put ILSVRC2012_devkit_t12.tar.gz in {root}, or sort all into folders"
        )
    index = {wnid: label for label, wnid in enumerate(wnids)}
    if unknown := sorted(set(val_wnids) - set(index)):
        raise ValueError(
            f"{root / 'val'} has images of {len(unknown)} classes that {root / 'train'} lacks ({unknown[0]}, ...): "
            "sort those of the training classes into folders"
        )
    labels = torch.tensor([index[wnid] for wnid in val_wnids], device="cpu")
    return Source({"train": train, "test": Listing(root / "val", [path.name for path in loose], labels)}, names)


def imagenet_places(root: Path) -> list[Path]:
    """What `imagenet` reads once it is unpacked."""
    archives = require("torchvision.datasets.imagenet", "train")
    return [root / name for name in ("train", "val", archives.META_FILE, archives.ARCHIVE_META["devkit"][0])]


def _unpack(archive: Path, folder: Path, unpack: Callable[..., None]) -> None:
    """Unpack an archive with torchvision. The folder appears under its name when it is complete, and of several
    processes one unpacks."""
    # torch depends on it
    from filelock import FileLock

    partial = folder.with_name(f"{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        shutil.rmtree(partial, ignore_errors=True)
        try:
            unpack(archive.parent, folder=partial.name)
        except RuntimeError as error:
            raise FileNotFoundError(f"cannot unpack {archive}: {' '.join(str(error).split())}") from error
        partial.rename(folder)


def _meta(root: Path) -> tuple[dict[str, str], list[str]]:
    """From the development kit: the words of each class, and the classes of the validation images in order."""
    archives = require("torchvision.datasets.imagenet", "train")
    kit = root / archives.ARCHIVE_META["devkit"][0]
    if not (root / archives.META_FILE).is_file():
        if not kit.is_file():
            return {}, []
        try:
            archives.parse_devkit_archive(root)
        except RuntimeError as error:
            raise FileNotFoundError(f"cannot read {kit}: {' '.join(str(error).split())}") from error
    words, val_wnids = archives.load_meta_file(root)
    return {wnid: ", ".join(names) for wnid, names in words.items()}, val_wnids


def _names(wnids: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """The first word for each class, with its WordNet number where several classes share the word."""
    first = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    return tuple(f"{name} ({wnid})" if first.count(name) > 1 else name for wnid, name in zip(wnids, first, strict=True))
