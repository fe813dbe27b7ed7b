"""Files that are either the old version or the new one, never half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no fcntl; the lock is a safeguard, not a need.
    fcntl = None  # type: ignore[assignment]

__all__ = ["append_line", "locked", "refuse_file", "write_atomically", "write_json", "write_text"]


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, then rename it to `path`.

    Raises:
        OSError: the file cannot be written (the disk is full, no permission); `path` is as before.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its own.
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


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


def refuse_file(directory: Path) -> None:
    """Raise NotADirectoryError if a file stands where `directory`, or a folder above it, is to be."""
    for folder in (directory, *directory.parents):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: choose a directory for --out")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a second process from training in the same directory; the lock dies with the process that holds it.

    Raises:
        BlockingIOError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    with open(directory / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process is training in {directory}: wait for it, stop it, or choose another directory"
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        yield
