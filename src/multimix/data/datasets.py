"""The two kinds of data set, images in memory and images in files, and the splits that `load` returns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["ArrayDataset", "DataSplits", "Dataset", "FileDataset"]


class ArrayDataset:
    """Labelled images in memory.

    Args:
        images: uint8 (N, channels, size, size), one or three channels.
        labels: class indices (N,), any integer type; kept as int64.
        extras: further tensors (N, ...) that belong to the examples, such as their source domain. A loader hands
            them on with every batch, and methods name the ones they need.
        image_size: the side that a loader makes of the images, in pixels; default: their own.

    Raises:
        TypeError: images that are not uint8 or labels that are not integers.
        ValueError: a shape or a label that does not fit; no images at all.

    >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    >>> dataset = ArrayDataset(images, torch.tensor([0, 1, 0, 1]), extras={"domain": torch.tensor([0, 0, 1, 1])})
    >>> len(dataset), dataset.image_size
    (4, 8)
    >>> dataset.subset(torch.tensor([0, 3])).extras
    {'domain': tensor([0, 1])}
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        extras: Mapping[str, Tensor] | None = None,
        image_size: int | None = None,
    ) -> None:
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8 pixels in 0..255, got {images.dtype}: scale and convert them")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or not 0 < images.shape[2] == images.shape[3]:
            raise ValueError(
                f"images must be square with shape (N, 1 or 3, size, size), got {tuple(images.shape)}: "
                "reorder the axes, or crop or resize the images"
            )
        self.images = images
        self.labels, self.extras = _check_labels(labels, len(images), extras)
        self.image_size = images.shape[-1] if image_size is None else image_size

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colours."""
        return self.images.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ArrayDataset:
        """The examples `indices` (M,), in that order."""
        extras = {name: values[indices] for name, values in self.extras.items()}
        return ArrayDataset(self.images[indices], self.labels[indices], extras=extras, image_size=self.image_size)

    def digest(self) -> str:
        """What tells it from a data set with other labels or pixels.

        >>> black = ArrayDataset(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> white = ArrayDataset(255 - black.images, black.labels)
        >>> black.digest() == white.digest(), black.digest() == black.subset(torch.tensor([0, 1])).digest()
        (False, True)
        """
        return _digest(self.labels.numpy(), self.images.contiguous().numpy())

    def __repr__(self) -> str:
        return f"ArrayDataset({len(self)} images, {tuple(self.images.shape[1:])})"


class FileDataset:
    """Labelled images in files, decoded when a loader asks for them.

    Args:
        folder: what the names are relative to.
        names: one file name for every example.
        labels: class indices (N,).
        extras: further tensors (N, ...) that belong to the examples.
        image_size: the side that a loader makes of the images, in pixels.

    Raises:
        TypeError: labels that are not integers.
        ValueError: no images, or not one label for every image.

    >>> dataset = FileDataset("photos", ["cat/1.jpg", "dog/1.jpg"], torch.tensor([0, 1]), image_size=224)
    >>> len(dataset), dataset.path(1).as_posix()
    (2, 'photos/dog/1.jpg')
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        names: Sequence[str],
        labels: Tensor,
        *,
        image_size: int,
        extras: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.folder = Path(folder)
        encoded = [os.fsencode(name) for name in names]
        # One block of bytes instead of a list of strings: every access to a Python string writes its reference
        # count, which would slowly copy the whole list into each loader process.
        self._text = b"".join(encoded)
        self._ends = torch.tensor([len(name) for name in encoded], dtype=torch.int64, device="cpu").cumsum(0)
        self.labels, self.extras = _check_labels(labels, len(encoded), extras)
        self.image_size = image_size

    @property
    def channels(self) -> int:
        """3: files are decoded in colour."""
        return 3

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The file name of an example, relative to `folder`."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._text[start : int(self._ends[index])])

    def path(self, index: int) -> Path:
        """The path of an example's file."""
        return self.folder / self.name(index)

    def subset(self, indices: Tensor) -> FileDataset:
        """The examples `indices` (M,), in that order."""
        return FileDataset(
            self.folder,
            [self.name(int(i)) for i in indices],
            self.labels[indices],
            image_size=self.image_size,
            extras={name: values[indices] for name, values in self.extras.items()},
        )

    def digest(self) -> str:
        """What tells it from a data set with other labels or names of files, which are not read."""
        return _digest(self.labels.numpy(), self._ends.numpy(), self._text)

    def __repr__(self) -> str:
        return f"FileDataset({len(self)} images in {str(self.folder)!r}, image_size={self.image_size})"


Dataset = ArrayDataset | FileDataset


@dataclass(frozen=True, kw_only=True, repr=False)
class DataSplits:
    """A data set, split.

    Attributes:
        train: the training examples.
        val: the validation examples, or None.
        test: the test examples.
        class_names: one name for every class; class `k` is `class_names[k]`.
        image_size: the side of the square images, in pixels.
        mean, std: one value per channel, for pixels in [0, 1]. Not applied to any image here: the model does it.
        skipped: the files that were unreadable and left out.
        domains: the source domains of the data set "domains"; `train.extras["domain"]` indexes them.

    Raises:
        ValueError: a label that has no class name; splits whose images differ in size.
    """

    train: Dataset
    val: Dataset | None
    test: Dataset
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = field(default=())
    domains: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for split in ("train", "val", "test"):
            dataset: Dataset | None = getattr(self, split)
            if dataset is None:
                continue
            check_range(dataset.labels, self.num_classes, split)
            if dataset.image_size != self.image_size:
                raise ValueError(
                    f"images of all splits must have the same size, got {dataset.image_size} pixels in {split} "
                    f"and image_size={self.image_size}: give image_size, to which all are resized"
                )

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def identity(self) -> dict[str, Any]:
        """What tells it from other data; results that differ in this do not compare."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            **{f"{name}_examples": 0 if split is None else len(split) for name, split in splits.items()},
            **{f"{name}_digest": split.digest() for name, split in splits.items() if split is not None},
        }

    def __repr__(self) -> str:
        sizes = f"train={len(self.train)}, "
        sizes += f"val={len(self.val)}, " if self.val is not None else ""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return (
            f"DataSplits({sizes}test={len(self.test)} images, {self.num_classes} classes, "
            f"image_size={self.image_size}{skipped})"
        )


def _digest(*parts: Any) -> str:
    """Of contiguous bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def check_range(labels: Tensor, num_classes: int, split: str) -> None:
    """Refuse a label that is no class index."""
    at = int(labels.argmax())
    if int(labels[at]) >= num_classes:
        raise ValueError(
            f"label {int(labels[at])} of {split} example {at} is out of range: there are {num_classes} classes, "
            f"numbered 0 to {num_classes - 1}"
        )


def lacking(labels: Tensor, class_names: Sequence[str]) -> str:
    """The first few of the classes of which there is no example; "" where none is lacking.

    >>> lacking(torch.tensor([0, 2]), ["ant", "bee", "cat"])
    "'bee'"
    """
    present = set(labels.tolist())
    absent = [repr(name) for number, name in enumerate(class_names) if number not in present]
    return ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")


def _check_labels(labels: Tensor, count: int, extras: Mapping[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integer class indices, got {labels.dtype}: convert them")
    if labels.shape != (count,):
        raise ValueError(f"{count} images need labels of shape ({count},), got {tuple(labels.shape)}")
    if not count:
        raise ValueError("a data set needs at least one image, got none")
    labels = labels.to(torch.int64).contiguous()  # a column of a table is not, and could not be digested
    if int(labels.min()) < 0:
        at = int(labels.argmin())
        raise ValueError(f"labels are numbered from 0, got {int(labels[at])} for example {at}")
    extras = dict(extras or {})
    for name, values in extras.items():
        if len(values) != count:
            raise ValueError(f"extra {name!r} must hold one row for each of the {count} images, got {len(values)}")
    return labels, extras
