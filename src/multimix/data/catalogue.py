"""`load`: a data set by name, as splits ready for training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ..errors import nearest_or_all
from . import cifar, digits, imagenets
from .datasets import ArrayDataset, Dataset, DataSplits
from .domains import cells, domain_places, leave_one_out, read_domains
from .listing import Listing
from .npz import npz
from .opening import BadImages, open_files
from .source import Files, Source, image_folder, image_folder_places
from .subsets import choose

__all__ = ["Name", "load", "read_from"]

Name = Literal["digits", "cifar10", "cifar100", "tinyimagenet", "imagenet", "imagefolder", "domains"]


def load(
    name: Name,
    *,
    root: str | os.PathLike[str] | None = None,
    held_out: str | None = None,
    download: bool = True,
    per_class: int | None = None,
    val_per_class: int = 0,
    subset_seed: int = 0,
    image_size: int | None = None,
    bad_images: BadImages = "error",
) -> DataSplits:
    """A data set by name.

    Small images (up to 96 pixels, 2 GiB in all) are held in memory as an `ArrayDataset`, and those that come from
    files are decoded once and cached; other sets are a `FileDataset`.

    Args:
        name: "digits" (8x8, grey, comes with scikit-learn), "cifar10", "cifar100" (32x32), "tinyimagenet"
            (64x64), "imagenet" (224x224), "imagefolder": any folder that holds train/CLASS/IMAGE and the same
            under val/, test/ or both, or "domains": a folder that holds DOMAIN/CLASS/IMAGE, as Office-Home and PACS.
        root: the data set's folder, or an `.npz` file with its arrays. CIFAR has a default, the cache folder.
        held_out: for "domains", the domain that is the test set; the others are trained on, and number themselves
            in the extra `domain` of the training set.
        download: download CIFAR into `root` when it is not there.
        per_class: train on this many examples of each class, for "domains" of each class of each source domain. With
            one `subset_seed`, larger choices contain smaller ones, and the choice does not depend on `val_per_class`.
        val_per_class: hold out this many training examples of each class (for "domains", of each class of each source
            domain) as `val`. If the data set has no test images, they become `test` instead.
        subset_seed: seed of both choices.
        image_size: side of the images in pixels, to which others are resized and cut.
        bad_images: an unreadable image is an "error" that names it, or "skip": left out, counted in a warning
            and listed in `skipped`.

    Raises:
        FileNotFoundError: a folder or file is missing and cannot be downloaded.
        ValueError: an unknown name or an argument out of its range; an unreadable image; an empty class, or one in
            all; a label out of range; images of several sizes without an `image_size`; fewer examples than asked for.

    >>> data = load("digits", per_class=5)
    >>> len(data.train), len(data.test), data.num_classes, data.image_size
    (50, 870, 10, 8)
    """
    _check(name, per_class, val_per_class, image_size, bad_images)
    root = None if root is None else Path(root).expanduser()
    source, mean, std = _find(name, root, download, held_out)
    if len(source.class_names) < 2:
        raise ValueError(
            f"{root} holds one class, {source.class_names[0]!r}: a classifier needs at least two. "
            "Is it the folder that holds train/CLASS/IMAGE?"
        )
    if name == "imagenet" and image_size is None:
        image_size = 224
    sources: tuple[str, ...] = tuple(source.splits)[:-1] if name == "domains" else ()
    names = {"train", "test"} if sources else source.splits.keys()
    if "val" in names and val_per_class:
        raise ValueError(f"{root} has a validation split of its own: leave val_per_class at 0, got {val_per_class}")
    if "test" not in names and not val_per_class:
        raise ValueError(
            f"{root} holds training images, but neither val nor test: add one of them, or set val_per_class, "
            "to test on that many training images of each class"
        )
    splits, skipped = _open(source, image_size, bad_images)
    if sources and root is not None:
        splits = leave_one_out(splits, root)
    train = splits["train"]
    if per_class is not None or val_per_class:
        labels, groups = cells(train, sources, source.class_names) if sources else (train.labels, source.class_names)
        chosen, kept = choose(labels, groups, per_class=per_class, held_out=val_per_class, seed=subset_seed)
        splits["train"] = train.subset(chosen)
        if val_per_class:
            splits["val" if "test" in splits else "test"] = train.subset(kept)
    return DataSplits(
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        class_names=source.class_names,
        image_size=train.image_size,
        mean=mean,
        std=std,
        skipped=skipped,
        domains=sources,
    )


def read_from(name: str, root: Path) -> Files:
    """What `load(name, root=root)` reads, of what is there; all of `root` where that is a file, or of another set."""
    root = root.expanduser()
    places = _PLACES.get(name)
    if places is None or _is_arrays(root) or not root.is_dir():
        return Files(root)
    return Files(root, [place for place in places(root) if place.exists()])


_PLACES: Mapping[str, Callable[[Path], list[Path]]] = {
    "cifar10": partial(cifar.places, "cifar10"),
    "cifar100": partial(cifar.places, "cifar100"),
    "tinyimagenet": imagenets.tiny_imagenet_places,
    "imagenet": imagenets.imagenet_places,
    "imagefolder": image_folder_places,
    "domains": domain_places,
}


def _check(name: str, per_class: int | None, val_per_class: int, image_size: int | None, bad_images: str) -> None:
    if name not in get_args(Name):
        raise ValueError(f"unknown data set {name!r}{nearest_or_all(name, get_args(Name))}")
    if bad_images not in get_args(BadImages):
        raise ValueError(f"bad_images must be 'error' or 'skip', got {bad_images!r}")
    lowest = {"per_class": (per_class, 1), "val_per_class": (val_per_class, 0), "image_size": (image_size, 1)}
    for argument, (value, low) in lowest.items():
        if value is not None and value < low:
            raise ValueError(f"{argument} must be at least {low}, got {value}")


def _find(
    name: Name, root: Path | None, download: bool, held_out: str | None
) -> tuple[Source, tuple[float, ...], tuple[float, ...]]:
    """The data set with the mean and standard deviation of its channels."""
    if held_out is not None and name != "domains":
        raise ValueError(f"held_out names a domain of the data set 'domains', and {name!r} has none: leave it out")
    if name == "digits":
        if root is not None:
            raise ValueError(
                f"digits come with scikit-learn and are read from nowhere else: leave out root, got {root}"
            )
        return digits.digits(), digits.MEAN, digits.STD
    if name in ("cifar10", "cifar100"):
        return cifar.cifar(name, root, download=download), cifar.MEAN, cifar.STD
    if root is None:
        raise ValueError(f"{name} has no default folder: give its folder as root (--data-root on the command line)")
    if name == "domains":
        return read_domains(root, held_out), imagenets.MEAN, imagenets.STD
    reader = {"tinyimagenet": imagenets.tiny_imagenet, "imagenet": imagenets.imagenet}.get(name, image_folder)
    source = npz(root) if _is_arrays(root) else reader(root)
    if name == "tinyimagenet":
        return source, cifar.MEAN, cifar.STD
    return source, imagenets.MEAN, imagenets.STD


def _open(source: Source, image_size: int | None, bad_images: BadImages) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    listings = {split: found for split, found in source.splits.items() if isinstance(found, Listing)}
    if listings:
        return open_files(listings, source.class_names, image_size=image_size, bad_images=bad_images)
    arrays = {split: found for split, found in source.splits.items() if isinstance(found, ArrayDataset)}
    if image_size is None:
        return {**arrays}, ()
    return {
        split: ArrayDataset(found.images, found.labels, extras=found.extras, image_size=image_size)
        for split, found in arrays.items()
    }, ()


def _is_arrays(root: Path) -> bool:
    """Whether it is a file of arrays; one array alone is refused where it is read."""
    return root.suffix.lower() in (".npz", ".npy")
