"""Classifiers of torchvision and timm as subjects: published weights or a file, on images of one's own."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from .. import data, models
from ..data.catalogue import read_from
from ..data.listing import class_folders, scan
from ..data.opening import open_files
from ..data.pictures import Resize
from ..data.source import HELD_OUT, Files
from ..extras import require
from ..machine import fastest_device
from ..models.libraries import about_timm, torchvision_classifiers
from ..reports.conditions import data_name
from .part import Subject
from .subjects import Candidate, data_digest, file_digest, make_identity, verified

__all__ = ["LIBRARIES", "library_candidate"]

LIBRARIES = ("torchvision", "timm")
BATCH = 64


def library_candidate(
    name: str,
    *,
    data: str | None,
    root: Path | None,
    weights: Path | None,
    image_size: int | None,
    batch_size: int | None,
    device: str | None,
    folder: Path,
) -> Candidate:
    """A classifier of torchvision or timm on a data set.

    Args:
        name: `torchvision:NAME` or `timm:NAME`.
        data: a data set of `multimix.data.load`.
        root: its folder. An image folder without training images will do: `root`/val, `root`/test or `root` itself
            then holds one folder for each class.
        weights: a state dictionary, as the library's own model or our `SplitModel` has it; default: the published
            ones. Its last layer decides the number of classes, which must be that of the data.
        image_size: default: that of the published weights, whose pictures are then resized and cut as these want it,
            and of the images where weights come from a file.
        batch_size: default 64.
        device: default: the GPU if there is one.
        folder: where the results are kept, in a folder of the model's name.

    Raises:
        ValueError: no data named, no such model, or published weights for another number of classes than the data
            have. Weights from a file that do not fit are refused by the candidate's `check`.
        FileNotFoundError: no such folder or file.
    """
    if data is None:
        raise ValueError(
            f"{name} needs data to be evaluated on: --data imagefolder --data-root DIR, with images in DIR/val/CLASS/"
        )
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"{weights} is not a file: --weights takes the .safetensors or .pth file of {name}")
    size, resize = image_size, Resize()
    if weights is None and image_size is None:
        size, resize = _published_preparation(name)
    root = root and root.expanduser()
    train, test, class_names = _load(data, root, size)
    if weights is None and (published := _published_classes(name)) != len(class_names):
        raise ValueError(
            f"the published weights of {name} are for {published} classes, but the data have {len(class_names)}: "
            "evaluate it on data with the classes of these weights, or give weights trained on yours with --weights"
        )

    where = device or fastest_device()

    # Made anew each time: the candidates live as long as the evaluation, and their models would fill a GPU together.
    def build() -> models.SplitModel:
        return _build(name, weights, num_classes=len(class_names), image_size=test.image_size)

    def check() -> None:
        # Published weights fit; looking at them would download those of every model before the first is evaluated.
        if weights is not None:
            build()
        _require_colour(name, test)

    def load() -> Subject:
        subject = Subject(
            label=name,
            seed=0,
            model=build().to(where).eval(),
            train=train,
            test=test,
            class_names=class_names,
            image_size=test.image_size,
            batch_size=batch_size or BATCH,
            method=None,
            resize=resize,
        )
        return verified(subject)

    source = "published" if weights is None else file_digest(weights)
    parts = [name, source, str(test.image_size), data_digest(test, class_names)]
    training = "trained elsewhere"
    if resize.shorter is not None:
        parts.append(repr(resize))
        training += f"; pictures resized to {resize.shorter} ({resize.interpolation}) and cut to {size} pixels"
    return Candidate(
        label=name,
        seed=0,
        which=None,
        method=None,
        data=data,
        data_name=data_name(data, root),
        model=name,
        source=name if weights is None else f"{name} with {weights}",
        folder=folder / name.replace(":", "-").replace("/", "-"),
        identity=lambda: make_identity(*parts, files=_files(data, root)),
        load=load,
        device=where,
        class_names=tuple(class_names),
        image_size=test.image_size,
        training=training,
        check=check,
    )


@functools.lru_cache(maxsize=1)
def _load(name: str, root: Path | None, size: int | None) -> tuple[data.Dataset | None, data.Dataset, Sequence[str]]:
    """Training set, if there is one, test set and class names."""
    if folder := _only_split(name, root):
        names = class_folders(folder)
        # The only split plays the part of the training set, which is the one that decides the image size.
        splits, _ = open_files({"train": scan(folder, names)}, names, image_size=size, bad_images="error")
        return None, splits["train"], names
    found = data.load(name, root=root, image_size=size)  # type: ignore[arg-type]
    return found.train, found.test, list(found.class_names)


def _require_colour(name: str, test: data.Dataset) -> None:
    if test.channels != 3:
        raise ValueError(f"{name} takes images of three channels, and these have one: evaluate it on colour images")


def _only_split(name: str, root: Path | None) -> Path | None:
    """Where the classes of an image folder are that has no training images."""
    if name != "imagefolder" or root is None or not root.is_dir() or (root / "train").is_dir():
        return None
    return next((root / name for name in ("test", *HELD_OUT["val"]) if (root / name).is_dir()), root)


def _files(name: str, root: Path | None) -> Files | None:
    """What `_load` reads; None for data that come with a library."""
    if root is not None and (folder := _only_split(name, root)):
        return Files(root, [folder / label for label in class_folders(folder)])
    return None if root is None else read_from(name, root)


def _published_preparation(name: str) -> tuple[int, Resize]:
    """The side of the images that published weights take, and how these are made of pictures."""
    library, _, rest = name.partition(":")
    if library == "torchvision":
        told = _torchvision_weights(rest).transforms()
        return int(told.crop_size[0]), Resize(int(told.resize_size[0]), told.interpolation.value)
    told = about_timm(rest)
    size = int(told.input_size[-1])
    return size, Resize(math.floor(size / told.crop_pct), told.interpolation)


def _published_classes(name: str) -> int:
    library, _, rest = name.partition(":")
    if library == "torchvision":
        return len(_torchvision_weights(rest).meta["categories"])
    return int(about_timm(rest).num_classes)


def _torchvision_weights(name: str) -> Any:
    return torchvision_classifiers(name).get_model_weights(name).DEFAULT


def _build(name: str, weights: Path | None, *, num_classes: int, image_size: int) -> models.SplitModel:
    if weights is None:
        return models.build(name, num_classes=num_classes, image_size=image_size, pretrained=True)
    library, _, rest = name.partition(":")
    state = _read(weights)
    about = _torchvision_weights(rest).transforms() if library == "torchvision" else about_timm(rest)
    mean, std = about.mean, about.std
    if any(key.startswith("stages.0.") for key in state) and "classifier.weight" in state:
        # Weights of our own runs, which hold the normalisation too.
        split = models.build(
            name, num_classes=num_classes, image_size=image_size, mean=mean, std=std, generator=torch.Generator()
        )
        _fill(split, state, name, weights)
        return split
    with torch.random.fork_rng(devices=[]):
        if library == "torchvision":
            model = require("torchvision", "train").models.get_model(rest, weights=None, num_classes=num_classes)
        else:
            model = require("timm", "train").create_model(rest, num_classes=num_classes)
    _fill(model, state, name, weights)
    return models.split(model, mean=mean, std=std, image_size=image_size)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The state dictionary in a file."""
    try:
        if path.suffix == ".safetensors":
            state: Any = require("safetensors.torch", "train").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # each format has exception types of its own, and PyTorch's advice is to read unsafely
        raise ValueError(
            f"{path} cannot be read as weights: it must be a .safetensors file, or what torch.save makes of "
            "model.state_dict()"
        ) from error
    for key in ("state_dict", "model"):  # where trainers put it in their checkpoints
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dictionary: save model.state_dict()")
    return state


def _fill(model: nn.Module, state: Mapping[str, Tensor], name: str, weights: Path) -> None:
    own = model.state_dict()
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    # The last layer alone has another number of rows: another number of classes.
    if other and all(own[key].shape[1:] == state[key].shape[1:] for key in other):
        sizes = {(len(state[key]), len(own[key])) for key in other}
        if len(sizes) == 1:
            ((theirs, ours),) = sizes
            raise ValueError(
                f"{weights} holds {name} for {theirs} classes, but the data have {ours}: evaluate it on data with "
                "the classes that it was trained on"
            )
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = shorten(" ".join(str(error).split()), 300)
        raise ValueError(f"{weights} does not fit {name}: {reason}") from error
