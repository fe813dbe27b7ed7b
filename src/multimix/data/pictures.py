"""One picture: from a file to square RGB pixels."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "OR_SKIP",
    "SMALL_SIDE",
    "VERSION",
    "Resize",
    "UnreadableImageError",
    "fit",
    "is_readable",
    "luma",
    "pixels",
    "read",
    "side",
]

SMALL_SIDE = 96
"""Images up to this side are used whole; larger ones are cut from a somewhat larger picture, as for ImageNet."""

VERSION = 4
"""Raised whenever a file comes to be read as other pixels, or is no longer readable, so that no cache hides it."""

OR_SKIP = ", or leave out unreadable images with bad_images='skip' (--bad-images skip)"
"""Ends the message of an image that cannot be read."""

THINNEST = 16
"""How many times longer one side may be than the other; of longer ones the middle is resized."""

BITS_PER_SAMPLE = 258
"""A tag of TIFF files."""

ORIENTATION = 0x0112
"""A tag of EXIF: how the camera was held."""


class UnreadableImageError(ValueError):
    """A file that does not hold a whole image, or one whose values have no known meaning; the message names it."""


def read(path: Path, *, upright: bool = True) -> Image:
    """The RGB picture in a file. One of 16 bits is scaled to 8, so that black and white stay what they are.

    Args:
        upright: turned as the camera says that it was held, which is how viewers show it. False: as it is stored, which
            is what positions in annotations refer to.

    Raises:
        UnreadableImageError: the file is missing, truncated or no image, or its values have no known range.
        OSError: the machine refuses to read the file (permissions, a failing disk), which is never skipped.
    """
    pil = _pillow()
    try:
        with open(path, "rb") as file:
            picture: Image = pil.open(file)
            white, orientation = _white(picture), _orientation(picture) if upright else 1
            rgb = (picture if white == 255 else _eight_bits(picture, white)).convert("RGB")
            return _turned(rgb, orientation)
    except Exception as error:  # decoders of broken files raise nearly anything
        if _is_of_the_machine(error):
            raise
        raise _unreadable(path, error) from error


@functools.cache
def _pillow() -> Any:
    """Pillow without its remarks (damaged tags, many pixels), which name no file and leave nothing to do."""
    pil = require("PIL.Image", "train")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", category=pil.DecompressionBombWarning)
    return pil


def is_readable(path: Path) -> bool:
    """Whether `read` can read the file, found at less cost."""
    pil = _pillow()
    try:
        with open(path, "rb") as file, pil.open(file) as picture:
            _white(picture)
            # A JPEG is then decoded at an eighth of its size, which still takes in all of its data.
            picture.draft("RGB", (1, 1))
            picture.load()
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        return False
    return True


def side(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Width and height in pixels, from the file's header; of the picture that `read` gives.

    Raises:
        UnreadableImageError: the file is missing or no image.
    """
    pil = _pillow()
    try:
        with pil.open(path) as picture:
            width, height = picture.size
            return (height, width) if upright and _orientation(picture) >= 5 else (width, height)
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        raise _unreadable(path, error) from error


@dataclass(frozen=True)
class Resize:
    """How a picture is resized before the centre is cut from it."""

    shorter: int | None = None
    """What its shorter side becomes, in pixels. Default: up to `SMALL_SIDE` the side that is cut; above, 256/224 of
    that, as usual for ImageNet."""
    interpolation: str = "bilinear"
    """As torchvision and timm call it."""


def fit(picture: Image, size: int, how: Resize = Resize()) -> Image:
    """Resize a picture and cut its centre, `size` x `size` pixels."""
    if how.shorter is None and picture.size == (size, size) and size <= SMALL_SIDE:
        return picture
    transforms = require("torchvision.transforms.v2", "train")
    v2, mode = transforms.functional, transforms.InterpolationMode(how.interpolation)
    shorter = how.shorter or (size if size <= SMALL_SIDE else round(size * 256 / 224))
    resized = v2.resize(_not_too_thin(picture, size / shorter), [shorter], mode, antialias=True)
    fitted: Image = v2.center_crop(resized, [size, size])
    return fitted


def _not_too_thin(picture: Image, needed: float) -> Image:
    """The middle of a picture whose longer side would become so long that it takes gigabytes, most of it cut off.

    Args:
        needed: at least how much longer one side must stay than the other.
    """
    width, height = picture.size
    most = min(width, height) * max(THINNEST, math.ceil(2 * needed))
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    if not (left or top):
        return picture
    return picture.crop((left, top, width - left, height - top))


def pixels(picture: Image) -> Tensor:
    """The uint8 pixels (3, height, width) of an RGB picture."""
    array = require("numpy", "train").array(picture)
    return torch.from_numpy(array).permute(2, 0, 1)


def luma(images: Tensor) -> Tensor:
    """uint8 pixels (N, 3, height, width) as grey ones (N, 1, height, width).

    That of ITU-R BT.601, rounded: torchvision's truncates, so that grey pictures would become darker.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device="cpu").view(3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).round().byte()


class _UnknownRangeError(Exception):
    """Nothing says which value is white."""


def _white(picture: Image) -> int:
    """The value of white in a picture as Pillow opens it.

    Raises:
        _UnknownRangeError: floating point numbers, or integers of which the file does not say how far they go.
    """
    if picture.mode.startswith("I;16"):
        bits = getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
        return int(2**bits - 1)
    # So Pillow opens PGM files of 16 bits, and its older versions PNG files too.
    if picture.mode == "I" and picture.format in ("PNG", "PPM"):
        return 2**16 - 1
    if picture.mode in ("I", "F"):
        raise _UnknownRangeError(f"its pixels are of mode {picture.mode}, whose range from black to white is unknown")
    return 255


def _orientation(picture: Image) -> int:
    """From 1, upright, to 8, as EXIF has it; 1 for what Pillow turns itself, and where the tags are damaged."""
    if picture.format == "TIFF":
        return 1
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # the picture may be whole all the same
        return 1
    return found if found in range(1, 9) else 1


def _turned(picture: Image, orientation: int) -> Image:
    if orientation == 1:
        return picture
    how = _pillow().Transpose
    turns = (how.FLIP_LEFT_RIGHT, how.ROTATE_180, how.FLIP_TOP_BOTTOM, how.TRANSPOSE, how.ROTATE_270, how.TRANSVERSE,
             how.ROTATE_90)  # fmt: skip
    return picture.transpose(turns[orientation - 2])


def _eight_bits(picture: Image, white: int) -> Image:
    """A grey picture scaled and rounded; Pillow's own conversion makes everything above 255 white."""
    numpy, pil = require("numpy", "train"), require("PIL.Image", "train")
    scaled = (numpy.asarray(picture).astype(numpy.uint32) * 255 + white // 2) // white
    eight: Image = pil.fromarray(scaled.astype(numpy.uint8))
    return eight


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the file could not be read at all, so that nothing is known about the image."""
    if isinstance(error, FileNotFoundError):
        return False
    # Pillow raises OSError for broken images too, but without an error number.
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def _unreadable(path: Path, error: Exception) -> UnreadableImageError:
    fix = "convert it to 8 bits" if isinstance(error, _UnknownRangeError) else "replace or remove the file"
    if isinstance(error, FileNotFoundError):
        reason = "the file is missing"
    elif type(error).__name__ == "UnidentifiedImageError":
        reason = "it is not an image, or of an unknown format"
    else:
        reason = str(error).rstrip(".") or type(error).__name__
    return UnreadableImageError(f"cannot read the image {path}: {reason}: {fix}{OR_SKIP}")
