"""Whether files have changed, from their names, sizes and times alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["fingerprint"]


def fingerprint(path: Path, places: Sequence[Path] | None = None) -> str:
    """A digest of the names, sizes and modification times of all files at or below `path`; nothing is read.

    What is not there has a digest too.

    Args:
        places: look only at these, which lie below `path`; where there is nothing else, the digest is the same.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     before = fingerprint(Path(folder))
    ...     _ = Path(folder, "new.txt").write_text("new")
    ...     fingerprint(Path(folder)) == before
    False
    """
    path = path.expanduser()
    digest = hashlib.blake2b()
    files = sorted(file for place in (places if places is not None else [path]) for file in _files(place.expanduser()))
    for file in files or [str(path)]:
        try:
            status = os.stat(file)
        except OSError:  # a broken link, or nothing at all
            digest.update(f"{os.path.relpath(file, path)}: missing\n".encode(errors="surrogateescape"))
        else:
            line = f"{os.path.relpath(file, path)}: {status.st_size} bytes, {status.st_mtime_ns} ns\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _files(place: Path) -> list[str]:
    if place.is_file():
        return [str(place)]
    return [os.path.join(where, name) for where, _, names in os.walk(place, followlinks=True) for name in names]
