"""Whether files have changed, from their names, sizes and times alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["fingerprint"]


def fingerprint(path: Path) -> str:
    """A digest of the names, sizes and modification times of all files at or below `path`; nothing is read.

    What is not there has a digest too.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> before = fingerprint(folder)
    >>> _ = (folder / "new.txt").write_text("new")
    >>> fingerprint(folder) == before
    False
    """
    path = path.expanduser()
    digest = hashlib.blake2b()
    files = sorted(os.path.join(where, name) for where, _, names in os.walk(path, followlinks=True) for name in names)
    for file in files or [str(path)]:
        try:
            status = os.stat(file)
        except OSError:  # a broken link, or nothing at all
            digest.update(f"{os.path.relpath(file, path)}: missing\n".encode(errors="surrogateescape"))
        else:
            line = f"{os.path.relpath(file, path)}: {status.st_size} bytes, {status.st_mtime_ns} ns\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]
