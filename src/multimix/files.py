"""Files that are either the old version or the new one, never half of it; and folders that are to be written in."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no fcntl; the lock is a safeguard, not a need.
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "append_line", "exclusive", "locked", "naming_another_folder", "printable", "refuse_file", "refuse_unwritable",
    "write_atomically", "write_json", "write_lines", "write_text",
]  # fmt: skip

_ROOM = 2**16
"""Bytes for which a disk must have room: an empty file can be made on a full one."""

ABANDONED = 600.0
"""Seconds after which a temporary file that has not grown belongs to a process that was killed."""


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, then rename it to `path`.

    Several processes may write the same `path` at once: the last one to finish wins.

    Raises:
        OSError: the file cannot be written (the disk is full, no permission); `path` is as before.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f"cannot write {path}: it is not a file that could be replaced")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    refused: list[OSError] = []
    try:
        with open(temporary, "xb") as file:
            _remove_abandoned(path, now=os.fstat(file.fileno()).st_mtime)
            write(_Remembering(file, refused))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError with positions in its file. Others are not of the writing:
        # the signal of a loader's process that was killed may arrive at any moment.
        if isinstance(error, RuntimeError) and not refused:
            raise
        cause = refused[0] if refused else error
        raise OSError(f"cannot write {path}: {getattr(cause, 'strerror', None) or cause}") from error
    finally:
        # Ctrl-C leaves nothing either. A read-only disk refuses to remove even what is not there.
        with suppress(OSError):
            temporary.unlink()


class _Remembering:
    """Writes to a file, and remembers what the system answered where that is an error."""

    def __init__(self, file: BinaryIO, refused: list[OSError]) -> None:
        self._file, self._refused = file, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self._refused.append(error)
            raise


def _remove_abandoned(path: Path, now: float) -> None:
    """Remove what killed processes left of `path`; `now` is by the clock of the disk, which may not be ours."""
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.tmp")
    with suppress(OSError):  # another process may remove it first
        for other in path.parent.iterdir():
            if name.fullmatch(other.name) and other.stat().st_mtime < now - ABANDONED:
                other.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; what UTF-8 does not have, such as a part of a path, as question marks."""
    write_atomically(path, lambda file: file.write(text.encode(errors="replace")))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """Write one JSON object per line, atomically."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def append_line(path: Path, record: Any) -> None:
    """Append one JSON object as a line, forced to disk before returning."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def printable(name: str) -> str:
    r"""A name from the file system, with those of its bytes escaped that are not UTF-8.

    >>> print(printable(os.fsdecode(b"caf\xe9")))
    caf\xe9
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def refuse_file(directory: Path) -> None:
    """Raise NotADirectoryError if a file stands where `directory`, or a folder above it, is to be, and ValueError for a
    name that no file of the run could be written with."""
    try:
        str(directory).encode()
    except UnicodeEncodeError:
        if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
            raise ValueError(
                f"the name {printable(str(directory))} cannot be read in this locale: set PYTHONUTF8=1, or choose "
                "another --out"
            ) from None
        raise ValueError(f"the name {printable(str(directory))} is not valid UTF-8: choose another --out") from None
    for folder in (directory, *directory.parents):
        if folder.is_symlink() and not folder.exists():
            raise NotADirectoryError(f"{folder} is a link that leads nowhere: choose a directory for --out")
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: choose a directory for --out")


def refuse_unwritable(directory: Path) -> None:
    """Raise OSError if nothing can be written in `directory`, or made there if it does not exist.

    It is tried, since permission bits say nothing to root or of a read-only disk.
    """
    folder = next(place for place in (directory, *directory.parents) if place.exists())
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        try:
            with open(probe, "xb") as file:
                file.write(bytes(_ROOM))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write in {directory} ({reason}): choose another folder with --out") from None


@contextmanager
def naming_another_folder() -> Iterator[None]:
    """Say with an OSError of writing what helps: another folder."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{error}: choose another folder with --out") from error


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Wait until no other process is within this for the same directory.

    Where there are no locks, as on some network file systems, it does not wait.
    """
    if fcntl is None:
        yield
        return
    # The directory itself is locked: a file for it would stay behind.
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a second process from training in the same directory; the lock dies with the process that holds it.

    Raises:
        BlockingIOError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    try:
        file = open(directory / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise type(error)(
            f"cannot write in {directory} ({error.strerror or error}): choose another folder with --out"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process is training in {directory}: wait for it, stop it, or choose another directory"
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        yield
