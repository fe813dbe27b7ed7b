"""One picture: from a file to square RGB pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SMALL_SIDE", "UnreadableImageError", "fit", "is_readable", "pixels", "read", "side"]

SMALL_SIDE = 96
"""Images up to this side are used whole; larger ones are cut from a somewhat larger picture, as for ImageNet."""


class UnreadableImageError(ValueError):
    """A file that does not hold a whole image; the message names it."""


def read(path: Path) -> Image:
    """The RGB picture in a file.

    Raises:
        UnreadableImageError: the file is missing, truncated or no image.
        OSError: the machine refuses to read the file (permissions, a failing disk), which is never skipped.
    """
    pil = require("PIL.Image", "train")
    try:
        with open(path, "rb") as file:
            picture: Image = pil.open(file).convert("RGB")
            return picture
    except Exception as error:  # decoders of broken files raise nearly anything
        if _is_of_the_machine(error):
            raise
        raise _unreadable(path, error) from error


def is_readable(path: Path) -> bool:
    """Whether the file holds a whole image, found at less cost than reading it."""
    pil = require("PIL.Image", "train")
    try:
        with open(path, "rb") as file, pil.open(file) as picture:
            # A JPEG is then decoded at an eighth of its size, which still takes in all of its data.
            picture.draft("RGB", (1, 1))
            picture.load()
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        return False
    return True


def side(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the file's header.

    Raises:
        UnreadableImageError: the file is missing or no image.
    """
    pil = require("PIL.Image", "train")
    try:
        with pil.open(path) as picture:
            width, height = picture.size
            return width, height
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        raise _unreadable(path, error) from error


def fit(picture: Image, size: int) -> Image:
    """Resize and cut a picture to `size` x `size` pixels.

    Up to `SMALL_SIDE` its shorter side becomes `size`; above, 256/224 of `size`, of which the centre is cut, as
    usual for ImageNet.
    """
    if picture.size == (size, size) and size <= SMALL_SIDE:
        return picture
    v2 = require("torchvision.transforms.v2.functional", "train")
    shorter = size if size <= SMALL_SIDE else round(size * 256 / 224)
    fitted: Image = v2.center_crop(v2.resize(picture, [shorter], antialias=True), [size, size])
    return fitted


def pixels(picture: Image) -> Tensor:
    """The uint8 pixels (3, height, width) of an RGB picture."""
    array = require("numpy", "train").array(picture)
    return torch.from_numpy(array).permute(2, 0, 1)


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the file could not be read at all, so that nothing is known about the image."""
    if isinstance(error, FileNotFoundError):
        return False
    # Pillow raises OSError for broken images too, but without an error number.
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def _unreadable(path: Path, error: Exception) -> UnreadableImageError:
    if isinstance(error, FileNotFoundError):
        reason = "the file is missing"
    elif type(error).__name__ == "UnidentifiedImageError":
        reason = "it is not an image, or of an unknown format"
    else:
        reason = str(error) or type(error).__name__
    return UnreadableImageError(
        f"cannot read the image {path}: {reason}: replace or remove the file, or leave out unreadable images "
        "with bad_images='skip' (--bad-images skip)"
    )
