"""From lists of image files to data sets: decoded into memory once where they are small, else left in the files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from . import pictures
from .datasets import ArrayDataset, Dataset, FileDataset
from .listing import Listing
from .survey import for_each, once

__all__ = ["MEMORY_LIMIT", "BadImages", "open_files"]

BadImages = Literal["error", "skip"]

MEMORY_LIMIT = 2 * 2**30
"""Bytes that a data set, all splits together, may take when decoded into memory."""


def open_files(
    listings: Mapping[str, Listing],
    class_names: Sequence[str],
    *,
    image_size: int | None,
    bad_images: BadImages,
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """A data set for each listing, and the files that were left out.

    Images up to `pictures.SMALL_SIDE` pixels that fit in `MEMORY_LIMIT` together are decoded into memory, through
    the cache. The others become a `FileDataset`; with `bad_images="skip"` each of their files is then read once,
    and the outcome cached, so that the unreadable ones are known before the training.

    Args:
        listings: the files of each split, or of each domain; the first tells the size of the images.
        class_names: one name for each class, for messages.
        image_size: side of the images; None: that of the images, which must then agree.
        bad_images: what an unreadable image does.

    Raises:
        pictures.UnreadableImageError: an unreadable image, with `bad_images="error"`.
        ValueError: images of several sizes without an `image_size`; a class without readable images.
    """
    size = image_size or _common_side(next(iter(listings.values())), skip=bad_images == "skip")
    count = sum(len(listing.names) for listing in listings.values())
    in_memory = size <= pictures.SMALL_SIDE and count * 3 * size * size <= MEMORY_LIMIT
    datasets: dict[str, Dataset] = {}
    skipped: list[str] = []
    for split, listing in listings.items():
        if in_memory:
            same_size = image_size is None
            build = partial(_decode, listing, size, same_size=same_size)
            found = once(listing.folder, listing.names, f"decoded to {size}, {same_size=}", build)
        elif bad_images == "skip":
            found = once(listing.folder, listing.names, "checked", partial(_check, listing))
        else:
            found = {"readable": torch.ones(len(listing.names), dtype=torch.bool, device="cpu")}
        readable = found["readable"]
        bad = [listing.names[int(i)] for i in (~readable).nonzero()]
        if bad and bad_images == "error":
            _refuse(listing, bad)
        skipped += [str(listing.folder / name) for name in bad]
        listing = _without(listing, readable, class_names)
        if in_memory:
            images = found["images"][readable] if bad else found["images"]
            datasets[split] = ArrayDataset(images, listing.labels)
        else:
            datasets[split] = FileDataset(listing.folder, listing.names, listing.labels, image_size=size)
    if skipped:
        shown = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        warnings.warn(f"left out {len(skipped)} of {count} images that are unreadable: {shown}", stacklevel=4)
    return datasets, tuple(skipped)


def _common_side(listing: Listing, *, skip: bool) -> int:
    """The side of the images, from the first readable one of each class."""
    seen: set[int] = set()
    first: tuple[str, int, int] | None = None
    for name, label in zip(listing.names, listing.labels.tolist(), strict=True):
        if label in seen:
            continue
        try:
            width, height = pictures.side(listing.folder / name)
        except pictures.UnreadableImageError:
            if not skip:
                raise
            continue
        seen.add(label)
        first = first or (name, width, height)
        if width != height or (width, height) != first[1:]:
            raise _mixed(listing, name, (width, height), first[0], first[1:])
    if first is None:
        raise ValueError(f"{listing.folder} holds no readable images")
    return first[1]


def _mixed(listing: Listing, name: str, size: tuple[int, int], other: str, expected: tuple[int, int]) -> ValueError:
    told = f"{listing.folder / name} is {size[0]}x{size[1]} pixels"
    told += f" and {other} {expected[0]}x{expected[1]}" if size != expected else ""
    return ValueError(
        f"images must be square and of one size where image_size is not given, but {told}: "
        "give image_size, to which they are resized and cut, for example 224"
    )


def _decode(listing: Listing, size: int, *, same_size: bool) -> dict[str, Tensor]:
    """The pixels (N, 3, size, size) of all images, and which were readable; the others stay black."""
    images = torch.zeros(len(listing.names), 3, size, size, dtype=torch.uint8, device="cpu")

    def decode(index: int) -> bool:
        path = listing.folder / listing.names[index]
        try:
            picture = pictures.read(path)
        except pictures.UnreadableImageError:
            return False
        if same_size and picture.size != (size, size):
            raise _mixed(listing, listing.names[index], picture.size, "the others", (size, size))
        images[index] = pictures.pixels(pictures.fit(picture, size))
        return True

    return {"images": images, "readable": _of_each(decode, listing, "decoding")}


def _check(listing: Listing) -> dict[str, Tensor]:
    def readable(index: int) -> bool:
        return pictures.is_readable(listing.folder / listing.names[index])

    return {"readable": _of_each(readable, listing, "checking")}


def _of_each(function: Callable[[int], bool], listing: Listing, verb: str) -> Tensor:
    paths = [listing.folder / name for name in listing.names]
    return torch.tensor(for_each(function, paths, f"{verb} {listing.folder}"), dtype=torch.bool, device="cpu")


def _refuse(listing: Listing, bad: list[str]) -> None:
    try:
        pictures.read(listing.folder / bad[0])
    except pictures.UnreadableImageError as error:
        others = f" ({len(bad) - 1} more of {listing.folder} are unreadable too)" if len(bad) > 1 else ""
        raise pictures.UnreadableImageError(f"{error}{others}") from error
    raise OSError(f"{listing.folder / bad[0]} has changed while it was read: try again")


def _without(listing: Listing, readable: Tensor, class_names: Sequence[str]) -> Listing:
    if bool(readable.all()):
        return listing
    labels = listing.labels[readable]
    for label in listing.labels.unique().tolist():
        if label not in labels:
            raise ValueError(f"class {class_names[label]!r} has no readable images in {listing.folder}")
    names = [listing.names[int(i)] for i in readable.nonzero()]
    return Listing(listing.folder, names, labels)
