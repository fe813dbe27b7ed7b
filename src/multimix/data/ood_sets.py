"""Images that a classifier was not trained on, by name, for out-of-distribution detection."""

from __future__ import annotations

import torch
from torch import Tensor

from ..random import fork
from . import pictures
from .datasets import ArrayDataset, Dataset
from .listing import Listing
from .ood_layouts import find_images
from .opening import open_files

__all__ = ["NOISES", "check_set", "ood_set"]

NOISES = ("gaussian-noise", "uniform-noise")
CROPS = ("lsun-crop", "tinyimagenet-crop")


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


def check_set(spec: str, *, image_size: int | None = None, download: bool = False) -> None:
    """Look whether a set is there and has images, without decoding them; arrays are read, archives unpacked.

    Args and errors as in `ood_set`. Of a set to be cropped, the first image is compared with `image_size`, if given.

    >>> check_set("gaussian-noise")
    """
    name, place = parse_spec(spec)
    if name in NOISES:
        return
    found = find_images(name, place, download=download)
    if name in CROPS and image_size is not None and isinstance(found, Listing):
        _require_croppable(found, image_size, name)


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

    Written NAME=FOLDER, or NAME where nothing is read. These names know a layout; any other stands for all images at
    or below its folder:

    - `gaussian-noise`: every value from N(0.5, 1), cut to [0, 1]; `uniform-noise`: from U[0, 1] (both as in ODIN);
    - `svhn`: the test images, `test_32x32.mat`;
    - `dtd`: all textures, in `dtd/images` or wherever torchvision puts them, or in class folders;
    - `cifar10`, `cifar100`: the test images, as arrays, authors' batches, or in class folders (of `test/`, if there);
    - `lsun-crop`, `lsun-resize`, `isun`: ODIN's archives `LSUN.tar.gz`, `LSUN_resize.tar.gz` and `iSUN.tar.gz`, which
      are unpacked once, or the folders that come out of them;
    - `tinyimagenet-crop`, `tinyimagenet-resize`: TinyImageNet's validation images (`val/`, or a folder of its classes),
      or ODIN's `Imagenet.tar.gz` and `Imagenet_resize.tar.gz`, as above.

    Crops are cut to the size at a random place, everything else is resized. ODIN's crops are small already.

    Images of files up to 96 pixels are decoded into memory once, others are left in their files.

    Args:
        spec: as above.
        image_size: side in pixels. The shorter side of larger or smaller images is resized to it and the centre cut.
        channels: 1 makes the images grey.
        limit: take this many at random, if there are more; of noise 10000 are made where it is None.
        download: fetch SVHN, DTD, CIFAR (through torchvision) or ODIN's archives into a folder that lacks them.
        generator: of noise, crops and the choice; default: a private stream that leaves the global RNG alone.

    Raises:
        FileNotFoundError: a folder is missing, or lacks the files of its layout.
        ValueError: a name without its folder; no images; an unreadable image; images too small to crop; an archive
            that is not the published one.

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
    found = find_images(name, place, download=download)
    if isinstance(found, Listing):
        crop = name in CROPS
        if crop:
            _require_croppable(found, image_size, name)
        dataset = _open(_choose(found, limit, generator), None if crop else image_size)
        if crop:
            assert isinstance(dataset, ArrayDataset)
            dataset = ArrayDataset(_crop(dataset.images, image_size, generator), dataset.labels)
    else:
        chosen = _pick(len(found), limit, generator)
        dataset = ArrayDataset(
            found.images[chosen], torch.zeros(len(chosen), dtype=torch.int64, device="cpu"), image_size=image_size
        )
    return _grey(dataset) if channels == 1 else dataset


def _noise(name: str, count: int, size: int, channels: int, generator: torch.Generator | None) -> ArrayDataset:
    shape, generator = (count, channels, size, size), fork(generator, "cpu")
    if name == "gaussian-noise":
        pixels = torch.randn(shape, generator=generator, device="cpu").add_(0.5).clamp_(0, 1)
    else:
        pixels = torch.rand(shape, generator=generator, device="cpu")
    return ArrayDataset(pixels.mul_(255).round_().byte(), torch.zeros(count, dtype=torch.int64, device="cpu"))


def _pick(count: int, limit: int | None, generator: torch.Generator | None) -> Tensor:
    if limit is None or limit >= count:
        return torch.arange(count, device="cpu")
    return torch.randperm(count, generator=fork(generator, "cpu"), device="cpu")[:limit].sort().values


def _choose(listing: Listing, limit: int | None, generator: torch.Generator | None) -> Listing:
    chosen = _pick(len(listing.names), limit, generator)
    return Listing(listing.folder, [listing.names[int(i)] for i in chosen], listing.labels[chosen])


def _open(listing: Listing, image_size: int | None) -> Dataset:
    return open_files({"train": listing}, ("",), image_size=image_size, bad_images="error")[0]["train"]


def _require_croppable(listing: Listing, size: int, name: str) -> None:
    width, height = pictures.side(listing.folder / listing.names[0])
    images = f"images of {width}x{height} pixels in {listing.folder}"
    other = f"use {name.replace('crop', 'resize')}, or another set"
    if min(width, height) < size:
        raise ValueError(f"{images} cannot be cropped to the {size} that the classifier takes: {other}")
    if max(width, height) > pictures.SMALL_SIDE:
        raise ValueError(f"{images} are not of {name}, whose sides are up to {pictures.SMALL_SIDE}: {other}")


def _crop(images: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    count, _, side, _ = images.shape
    corners = torch.randint(side - size + 1, (count, 2), generator=fork(generator, "cpu"), device="cpu").tolist()
    return torch.stack([x[:, i : i + size, j : j + size] for x, (i, j) in zip(images, corners, strict=True)])


def _grey(dataset: Dataset) -> ArrayDataset:
    if not isinstance(dataset, ArrayDataset):
        raise ValueError(f"grey images are made in memory only, up to {pictures.SMALL_SIDE} pixels: got {dataset}")
    if dataset.channels == 1:
        return dataset
    return ArrayDataset(pictures.luma(dataset.images), dataset.labels, image_size=dataset.image_size)
