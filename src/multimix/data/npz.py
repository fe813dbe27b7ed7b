"""Data sets that are ready arrays in one `.npz` file."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..extras import require
from .datasets import ArrayDataset, check_range, lacking
from .listing import require_utf8
from .source import Source

__all__ = ["npz"]

# (images, labels): as in MedMNIST, and as often found
KEYS = (("{}_images", "{}_labels"), ("{}_x", "{}_y"), ("x_{}", "y_{}"))


def npz(path: Path) -> Source:
    """The arrays `train_images`, `train_labels`, and the same of test, val or both; `class_names` if there.

    Images are uint8, (N, size, size), (N, size, size, 1 or 3) or (N, 1 or 3, size, size); grey ones become RGB.
    Labels are integers (N,) or (N, 1). Without `class_names`, classes are named by their number. The keys can
    also be `train_x` and `train_y`, or `x_train` and `y_train`. Further numeric arrays with one row for each image,
    such as `train_soft_targets`, become the split's `extras`, named without the split. Where only one of val and test
    is there, it is the test set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a whole `.npz` file; an array is missing or has another form; a label is out of range.
    """
    numpy = require("numpy", "train")
    try:
        file = numpy.load(path, allow_pickle=False)
        if isinstance(file, numpy.ndarray):
            raise ValueError(f"it is one array, {file.dtype} {file.shape}, of an .npy file; numpy.savez writes several")
        with file:
            arrays: dict[str, Any] = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: expected an .npz file with arrays") from None
    except (ValueError, EOFError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        fix = ", with text or numbers for Python objects: .astype(str)" if "Object" in str(error) else ""
        raise ValueError(f"{path} is not a whole .npz file of plain arrays ({error}): create it again{fix}") from error
    splits = {split: data for split in ("train", "val", "test") if (data := _split(path, arrays, split))}
    if "train" not in splits:
        raise ValueError(
            f"{path} must hold train_images and train_labels, and the same of test or val; "
            f"it holds {', '.join(arrays) or 'nothing'}"
        )
    if "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
    if "class_names" in arrays:
        if arrays["class_names"].ndim != 1:
            raise ValueError(
                f"class_names of {path} must be one name for every class, got an array {arrays['class_names'].shape}"
            )
        given = arrays["class_names"]
        names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in given)
        require_utf8(names, path)
    else:
        labels = splits["train"].labels
        if int(labels.max()) >= len(labels):
            raise ValueError(
                f"{path} has the label {int(labels.max())} and only {len(labels)} training images: number the classes "
                "from 0 without gaps (numpy.unique(labels, return_inverse=True)), or give class_names"
            )
        names = tuple(str(k) for k in range(int(labels.max()) + 1))
    for split, dataset in splits.items():
        check_range(dataset.labels, len(names), f"{path.name} {split}")
        if absent := lacking(dataset.labels, names):
            warnings.warn(
                f"{path} has no {split} images of {absent}, of {len(names)} classes (labels count from 0)", stacklevel=2
            )
    return Source(splits, names)


def _split(path: Path, arrays: dict[str, Any], split: str) -> ArrayDataset | None:
    for keys in KEYS:
        image_key, label_key = (key.format(split) for key in keys)
        if image_key in arrays and label_key in arrays:
            try:
                labels = _labels(arrays[label_key])
                labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
                extras = _extras(arrays, split, but=(image_key, label_key), count=len(labels))
                return ArrayDataset(_rgb(torch.from_numpy(arrays[image_key])), labels, extras=extras)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{image_key} and {label_key} of {path}: {error}") from error
    for image_key, label_key in ((images.format(split), labels.format(split)) for images, labels in KEYS):
        if image_key in arrays:
            raise ValueError(f"{path} has {image_key} without {label_key}; it holds {', '.join(arrays)}")
    return None


def _labels(array: Any) -> Tensor:
    if array.dtype.kind in "US":
        raise TypeError(
            f"labels must be integer class indices, got text, {array.ravel()[:3].tolist()}: number the classes, alike "
            "in all splits, and save their names as class_names: class_names, train_labels = "
            "numpy.unique(train_labels, return_inverse=True) makes both"
        )
    if array.ndim == 2 and array.shape[1] > 1:
        raise ValueError(
            f"labels must be integer class indices (N,), got an array {array.shape}: of rows with one 1 each, save "
            "labels.argmax(1)"
        )
    return torch.from_numpy(array)


def _extras(arrays: dict[str, Any], split: str, *, but: tuple[str, str], count: int) -> dict[str, Tensor]:
    """The further arrays of a split: numbers, one row for each of its images."""
    names = {key: key.removeprefix(f"{split}_") for key in arrays if key.startswith(f"{split}_") and key not in but}
    return {
        name: torch.from_numpy(arrays[key])
        for key, name in names.items()
        if arrays[key].dtype.kind in "buif" and arrays[key].shape[:1] == (count,)
    }


def _rgb(images: Tensor) -> Tensor:
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    return images.contiguous()
