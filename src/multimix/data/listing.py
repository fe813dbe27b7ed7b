"""Which image files a folder holds, and of which class each is."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..files import printable

OF_THE_SYSTEM = frozenset({"@eadir", "#recycle", "__macosx", "$recycle.bin", "lost+found"})
"""Folders that a system makes among others, in lower case."""

__all__ = [
    "EXTENSIONS",
    "Listing",
    "all_pictures",
    "class_folders",
    "image_files",
    "is_hidden",
    "require_folder",
    "require_utf8",
    "scan",
    "unlabelled",
]

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
OTHERS = (".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".jpe", ".dib", ".tga", ".pcx", ".psd", ".svg", ".dng",
          ".cr2", ".cr3", ".nef", ".arw")  # fmt: skip
"""Of pictures that are not read, and must not be missing without a word."""


@dataclass(frozen=True)
class Listing:
    """Image files of one split: `names` relative to `folder`, and class indices (N,)."""

    folder: Path
    names: list[str]
    labels: Tensor


def unlabelled(folder: Path, names: list[str]) -> Listing:
    """Images whose classes do not matter: all of class 0."""
    return Listing(folder, names, torch.zeros(len(names), dtype=torch.int64, device="cpu"))


def require_folder(folder: Path, expected: str) -> None:
    """Refuse a folder that is not there, saying what was expected in it."""
    if folder.suffix.lower() in (".zip", ".tar", ".gz", ".tgz") and folder.is_file():
        raise FileNotFoundError(f"{folder} is an archive: unpack it, and give the folder")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}: expected {expected}")


def require_utf8(names: Iterable[str], place: Path) -> None:
    """Refuse names of classes or domains, found in `place`, that no report could be written with."""
    for name in names:
        if any(unicodedata.category(sign) == "Cc" for sign in name):
            raise ValueError(
                f"the name {name!r} in {printable(str(place))} has control characters, which neither a terminal nor a "
                "page can show: rename it"
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the name '{printable(name)}' in {printable(str(place))} is not valid UTF-8, which reports are "
                "written in: rename it"
            ) from None


def is_hidden(name: str) -> bool:
    """Whether a folder of this name is not for people's eyes.

    >>> is_hidden(".ipynb_checkpoints"), is_hidden("@eaDir"), is_hidden("cats")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in OF_THE_SYSTEM


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted; their position is the class index, as in torchvision's ImageFolder.

    Raises:
        FileNotFoundError: `folder` is missing, or holds no class folder.
        ValueError: a name that is not UTF-8.
    """
    require_folder(folder, f"{folder}/CLASS/IMAGE, one folder for each class")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    if not names:
        raise FileNotFoundError(f"{folder} holds no class folders: expected {folder}/CLASS/IMAGE")
    require_utf8(names, folder)
    return names


def image_files(folder: Path) -> list[str]:
    """The image files below a folder, relative to it, in a fixed order. Hidden files and folders are left out, links
    followed; pictures whose formats are not read are counted in a warning.

    Raises:
        ValueError: a link that leads back to a folder that it lies in, as its images would be found again and again.
        OSError: the machine refuses to read a folder.
    """
    found, others = all_pictures(folder)
    if found and others:
        warn_of_unread(folder, others)
    return found


def all_pictures(folder: Path) -> tuple[list[str], list[str]]:
    """What `image_files` gives, and in the same way the pictures whose formats are not read."""
    found: list[str] = []
    others: list[str] = []
    for where, files in sorted(_walk(folder)):
        for file in sorted(files):
            if file.lower().endswith(EXTENSIONS + OTHERS) and not file.startswith("."):
                kind = found if file.lower().endswith(EXTENSIONS) else others
                kind.append(os.path.relpath(os.path.join(where, file), folder))
    return found, others


def warn_of_unread(folder: Path, names: Sequence[str]) -> None:
    """Say how many pictures are left out, whose formats are not read."""
    kinds = ", ".join(sorted({os.path.splitext(name)[1].lower() for name in names}))
    warnings.warn(
        f"{len(names)} pictures in {printable(str(folder))} are left out, since {kinds} is not read: convert them "
        f"to .jpg or .png (the first is {printable(names[0])})",
        stacklevel=3,
    )


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder at or below one, with the files in it."""
    # Normalised, because no folder above `..` need hold it.
    top = os.path.abspath(folder)
    if os.path.islink(top):
        _require_no_loop(os.path.dirname(top), [os.path.basename(top)])
    for where, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if links := [name for name in folders if os.path.islink(os.path.join(where, name))]:
            _require_no_loop(os.path.abspath(where), links)
        yield where, files


def _refuse(error: OSError) -> NoReturn:
    """Without this, `os.walk` leaves out a folder that cannot be read, and all of its images."""
    raise error


def _require_no_loop(where: str, links: Sequence[str]) -> None:
    """Refuse a link in `where` to a folder that holds it, directly or through the links that lead to `where`."""
    holders = [place.resolve() for place in (Path(where), *Path(where).parents)]
    for name in links:
        target = Path(where, name).resolve()
        if any(holder.is_relative_to(target) for holder in holders):
            raise ValueError(
                f"{Path(where, name)} is a link that leads back to {target}, which it lies in, so that images would be "
                "found again and again: remove the link"
            )


def _alike(name: str, classes: Sequence[str]) -> str:
    """A hint at a class that is written in another way: in other case, or with other signs for the same letters."""

    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", text.strip()).casefold()

    twin = next((known for known in classes if plain(known) == plain(name)), None)
    return "" if twin is None else f"if it is {twin!r}, which is written otherwise, rename it; else "


def _warn_of_loose(folder: Path) -> None:
    with os.scandir(folder) as entries:
        loose = sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(EXTENSIONS + OTHERS) and not entry.name.startswith(".") and entry.is_file()
        )
    if loose:
        warnings.warn(
            f"{len(loose)} pictures lie in {printable(str(folder))} itself and are left out, since nothing says which "
            f"class they belong to: put them into the folders of their classes (the first is {printable(loose[0])})",
            stacklevel=3,
        )


def scan(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The images of `folder`/CLASS/.../IMAGE.

    Args:
        folder: holds one folder for each class.
        classes: the folder names of classes 0, 1, ...; default: `class_folders(folder)`. Some of them may be
            absent from a test set.

    Raises:
        FileNotFoundError: `folder` is missing, or holds no class folder.
        ValueError: a class folder without images, that is not in `classes`, or whose name is not UTF-8; a link that
            leads back.
        OSError: the machine refuses to read a folder.
    """
    present = class_folders(folder)
    classes = present if classes is None else classes
    _warn_of_loose(folder)
    names: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for name in present:
        if name not in classes:
            raise ValueError(
                f"{folder} has a class folder {name!r} that the training set lacks: {_alike(name, classes)}"
                "remove it, or add the class to the training set"
            )
        files, unread = all_pictures(folder / name)
        others += [os.path.join(name, file) for file in unread]
        if not files:
            raise ValueError(
                f"class {name!r} is empty: {folder / name} holds no images ({', '.join(EXTENSIONS)}): "
                "add some, or remove the folder"
            )
        names += [os.path.join(name, file) for file in files]
        labels += [classes.index(name)] * len(files)
    if others:
        warn_of_unread(folder, others)
    return Listing(folder, names, torch.tensor(labels, device="cpu"))
