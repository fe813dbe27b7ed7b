"""Checkpoints: written whole or not at all, checked before use, and unable to run code."""

from __future__ import annotations

import errno
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..errors import first_line
from ..files import write_atomically

__all__ = ["CheckpointError", "load_checkpoint", "load_latest", "save_checkpoint", "save_latest"]

FORMAT = "multimix checkpoint 1"


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or is not one of ours."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and lists and dictionaries of them) to `path`, atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is truncated, damaged, of another format, or holds more than plain data.
        OSError: the machine refuses to read it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        # torch.load does not verify the checksums of the archive; a flipped bit would pass as a weight.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # that is of a position outside of the file
            raise
        raise CheckpointError(f"{path} is truncated or not a checkpoint ({first_line(error)})") from error
    # What a flipped bit leads to depends on where it is: names that are no text, for one.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint ({first_line(error)})") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds objects other than tensors and plain values and was not opened, since it could run code"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format", "no format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is not a checkpoint of this version: expected {FORMAT!r}, found {found!r}")
    return state


def save_latest(directory: Path, state: dict[str, Any]) -> None:
    """Write last.pt, keeping the one before as previous.pt."""
    save_checkpoint(directory / "next.pt", state)
    _move_up(directory)


def _move_up(directory: Path) -> None:
    last, previous = directory / "last.pt", directory / "previous.pt"
    if last.exists():
        # By a second name for the same file, so that there is a last.pt at every moment for whoever reads meanwhile.
        with suppress(OSError):
            previous.unlink(missing_ok=True)
            os.link(last, previous)
        if not previous.exists():
            os.replace(last, previous)  # a file system without links
    os.replace(directory / "next.pt", last)


def load_latest(directory: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
    """The newest good checkpoint of `directory`; None when no checkpoint has been written yet.

    `check` raises ValueError for a state that belongs to another run. A file that is refused is named in a
    warning, and the one before it is used.

    Raises:
        CheckpointError: there are checkpoints, and none is good.
        OSError: the machine refuses to read one that may be good.
    """
    if (directory / "next.pt").exists():
        # A kill came between writing it, which is atomic, and the renames.
        _move_up(directory)
    refused, absent = [], []
    for name in ("last.pt", "previous.pt", "best.pt"):
        path = directory / name
        try:
            state = load_checkpoint(path)
            check(state)
        except FileNotFoundError as error:
            absent.append(str(error))
            continue
        except ValueError as error:
            refused.append(str(error))
            continue
        for reason in refused or absent[:1]:
            warnings.warn(f"{reason}: using {name} instead", stacklevel=2)
        return state
    if refused:
        raise CheckpointError(
            f"no usable checkpoint in {directory}: {'; '.join(refused)}. Start a new run in another directory"
        )
    return None
