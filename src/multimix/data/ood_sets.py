"""Images that a classifier was not trained on, by name, for out-of-distribution detection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..extras import require
from ..random import fork
from .cifar import cifar
from .datasets import ArrayDataset, Dataset
from .files import open_files
from .listing import EXTENSIONS, Listing, image_files, require_folder
from .pictures import SMALL_SIDE

__all__ = ["NOISES", "check_set", "ood_set"]

NOISES = ("gaussian-noise", "uniform-noise")


def parse_spec(spec: str) -> tuple[str, str]:
    """Name and folder of `spec`, as `ood_set` takes it; the folder of noise is empty.

    Raises:
        ValueError: it is neither NAME=FOLDER nor the name of a noise.

    >>> parse_spec("lsun=~/data/LSUN_resize")
    ('lsun', '~/data/LSUN_resize')
    """
    name, given, place = (part.strip() for part in spec.partition("="))
    if name in NOISES and given:
        raise ValueError(f"{name} is made, not read: leave out the folder, got {spec!r}")
    if name not in NOISES and not (name and place):
        raise ValueError(
            f"an out-of-distribution set is written NAME=FOLDER, or is one of {', '.join(NOISES)}; got {spec!r}"
        )
    return name, place


def check_set(spec: str, *, download: bool = False) -> None:
    """Look whether a set is there and has images, without decoding them; arrays are read.

    Args and errors as in `ood_set`, but images are neither read nor measured.

    >>> check_set("gaussian-noise")
    """
    name, place = parse_spec(spec)
    if name not in NOISES:
        _find(name, place, download)


def ood_set(
    spec: str,
    *,
    image_size: int,
    channels: int = 3,
    limit: int | None = None,
    download: bool = False,
    generator: torch.Generator | None = None,
) -> Dataset:
    """Out-of-distribution images, brought to the size of a model's. All labels are 0.

    Written NAME=FOLDER, or NAME where nothing is read. These names know a layout; any other stands for all images at or
    below its folder, such as LSUN and iSUN as ODIN's authors distribute them (`LSUN_resize`, `iSUN`):

    - `gaussian-noise`: every value from N(0.5, 1), cut to [0, 1]; `uniform-noise`: from U[0, 1] (both as in ODIN);
    - `svhn`: the test images, `test_32x32.mat`;
    - `dtd`: all textures, in `dtd/images` or wherever torchvision puts them;
    - `cifar10`, `cifar100`: the test images, as arrays, authors' batches or a folder of images (with `test/`);
    - `tinyimagenet-resize`, `tinyimagenet-crop`: the validation images (`val/`, or all below the folder), resized, or
      cut at a random place.

    Images of files up to 96 pixels are decoded into memory once, others are left in their files.

    Args:
        spec: as above.
        image_size: side in pixels. The shorter side of larger or smaller images is resized to it and the centre cut.
        channels: 1 makes the images grey.
        limit: take this many at random, if there are more; of noise 10000 are made where it is None.
        download: fetch SVHN, DTD and CIFAR, through torchvision, into a folder that lacks them.
        generator: of noise, crops and the choice; default: a private stream that leaves the global RNG alone.

    Raises:
        FileNotFoundError: a folder is missing, or lacks the files of its layout.
        ValueError: a name without its folder; no images; an unreadable image; images too small to crop.

    >>> ood_set("uniform-noise", image_size=8, limit=100)
    ArrayDataset(100 images, (3, 8, 8))
    """
    if image_size < 1 or channels not in (1, 3) or (limit is not None and limit < 1):
        raise ValueError(
            "image_size and limit must be at least 1 and channels 1 or 3, "
            f"got image_size={image_size}, channels={channels}, limit={limit}"
        )
    name, place = parse_spec(spec)
    if name in NOISES:
        return _noise(name, limit or 10_000, image_size, channels, generator)
    found = _find(name, place, download)
    if isinstance(found, Listing):
        listing = _choose(found, limit, generator)
        crop = name == "tinyimagenet-crop"
        dataset = _open(listing, None if crop else image_size)
        if crop:
            assert isinstance(dataset, ArrayDataset)
            dataset = ArrayDataset(_crop(dataset.images, image_size, found.folder, generator), dataset.labels)
    else:
        chosen = _pick(len(found), limit, generator)
        dataset = ArrayDataset(found.images[chosen], torch.zeros(len(chosen), dtype=torch.int64), image_size=image_size)
    return _grey(dataset) if channels == 1 else dataset


def _find(name: str, place: str, download: bool) -> ArrayDataset | Listing:
    """The arrays of a set, or the list of its files."""
    folder = Path(place).expanduser()
    found = _READERS.get(name, _folder)(folder, name, download)
    if not len(found.labels):
        raise ValueError(f"{folder} holds no images, which {name} needs: fill it, or leave the set out")
    return found


def _noise(name: str, count: int, size: int, channels: int, generator: torch.Generator | None) -> ArrayDataset:
    shape, generator = (count, channels, size, size), fork(generator, "cpu")
    if name == "gaussian-noise":
        pixels = torch.randn(shape, generator=generator).add_(0.5).clamp_(0, 1)
    else:
        pixels = torch.rand(shape, generator=generator)
    return ArrayDataset(pixels.mul_(255).round_().byte(), torch.zeros(count, dtype=torch.int64))


def _folder(folder: Path, name: str, download: bool) -> Listing:
    """All images at or below a folder."""
    require_folder(folder, f"the images of {name}, in any folders below it")
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(EXTENSIONS)}), which {name} needs: fill it")
    return Listing(folder, files, torch.zeros(len(files), dtype=torch.int64))


def _dtd(folder: Path, name: str, download: bool) -> Listing:
    def find() -> Path | None:
        return next((folder / p for p in ("dtd/dtd/images", "dtd/images", "images") if (folder / p).is_dir()), None)

    if download and find() is None and not (folder.is_dir() and image_files(folder)):
        datasets = require("torchvision.datasets", "train")
        _through_torchvision(lambda: datasets.DTD(folder, download=True), name, folder, download)
    return _folder(find() or folder, name, download)


def _svhn(folder: Path, name: str, download: bool) -> ArrayDataset:
    datasets = require("torchvision.datasets", "train")
    if download:
        folder.mkdir(parents=True, exist_ok=True)
    found = _through_torchvision(
        lambda: datasets.SVHN(folder, split="test", download=download), f"{name} (test_32x32.mat)", folder, download
    )
    return ArrayDataset(torch.from_numpy(found.data), torch.from_numpy(found.labels))


def _cifar(folder: Path, name: str, download: bool) -> ArrayDataset | Listing:
    if (folder / "test").is_dir():
        return _folder(folder / "test", name, download)
    if folder.is_dir() and image_files(folder):
        return _folder(folder, name, download)
    found = cifar("cifar10" if name == "cifar10" else "cifar100", folder, download=download).splits["test"]
    return found


def _tiny_imagenet(folder: Path, name: str, download: bool) -> Listing:
    for validation in (folder / "tiny-imagenet-200" / "val", folder / "val"):
        if validation.is_dir():
            return _folder(validation, name, download)
    return _folder(folder, name, download)


_READERS: dict[str, Callable[[Path, str, bool], ArrayDataset | Listing]] = {
    "svhn": _svhn,
    "dtd": _dtd,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "tinyimagenet-resize": _tiny_imagenet,
    "tinyimagenet-crop": _tiny_imagenet,
}


def _through_torchvision(make: Callable[[], Any], name: str, folder: Path, download: bool) -> Any:
    try:
        return make()
    except (RuntimeError, OSError) as error:
        hint = "check the network, or put it there by hand" if download else "put it there, or allow the download"
        raise FileNotFoundError(f"{name} is not in {folder}, or not whole ({error}): {hint}") from error


def _pick(count: int, limit: int | None, generator: torch.Generator | None) -> Tensor:
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=fork(generator, "cpu"))[:limit].sort().values


def _choose(listing: Listing, limit: int | None, generator: torch.Generator | None) -> Listing:
    chosen = _pick(len(listing.names), limit, generator)
    return Listing(listing.folder, [listing.names[int(i)] for i in chosen], listing.labels[chosen])


def _open(listing: Listing, image_size: int | None) -> Dataset:
    return open_files({"train": listing}, ("",), image_size=image_size, bad_images="error")[0]["train"]


def _crop(images: Tensor, size: int, folder: Path, generator: torch.Generator | None) -> Tensor:
    count, _, side, _ = images.shape
    if size > side:
        raise ValueError(
            f"images of {side} pixels in {folder} cannot be cropped to {size}: use tinyimagenet-resize, or another set"
        )
    corners = torch.randint(side - size + 1, (count, 2), generator=fork(generator, "cpu")).tolist()
    return torch.stack([x[:, i : i + size, j : j + size] for x, (i, j) in zip(images, corners, strict=True)])


def _grey(dataset: Dataset) -> ArrayDataset:
    if not isinstance(dataset, ArrayDataset):
        raise ValueError(f"grey images are made in memory only, up to {SMALL_SIDE} pixels: got {dataset}")
    if dataset.images.shape[1] == 1:
        return dataset
    # The luma of ITU-R BT.601, rounded: torchvision's truncates, so that grey pictures would become darker.
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = (dataset.images * luma).sum(dim=1, keepdim=True).round().byte()
    return ArrayDataset(grey, dataset.labels, image_size=dataset.image_size)
