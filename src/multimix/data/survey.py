"""Finding something out about each of many image files: on threads, with progress, once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from . import pictures
from .cache import remember
from .progress import track

__all__ = ["for_each", "once"]

T = TypeVar("T")

CHUNK = 64


def for_each(function: Callable[[int], T], paths: Sequence[Path], description: str) -> list[T]:
    """`function(index)` for each of the files, on threads where they help."""
    results: list[T] = []

    def chunk(start: int) -> list[T]:
        return [function(index) for index in range(start, min(start + CHUNK, len(paths)))]

    executor = ThreadPoolExecutor(_threads(paths))

    def done() -> Iterator[int]:
        for found in executor.map(chunk, range(0, len(paths), CHUNK)):
            results.extend(found)
            yield len(found)

    try:
        for _ in track(done(), len(paths), description):
            pass
    finally:
        executor.shutdown(cancel_futures=True)
    return results


def once(folder: Path, names: Sequence[str], what: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `build` finds out about the files `names` of `folder`: kept as long as no name, size or modification time
    changes, nor the way in which images are read."""
    folder = folder.resolve()
    digest = hashlib.blake2b(f"version {pictures.VERSION}\n".encode(), digest_size=16)
    for name in names:
        try:
            status = os.stat(folder / name)
            state = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
        except OSError:
            state = f"{name}\0missing\n"
        digest.update(os.fsencode(state))
    place = hashlib.blake2b(os.fsencode(f"{folder}\0{what}"), digest_size=8).hexdigest()
    # A file name has 255 bytes.
    readable = os.fsdecode(os.fsencode(f"{folder.parent.name}-{folder.name}")[:80]).encode(errors="ignore").decode()
    return remember(f"{readable}-{place}", digest.hexdigest(), build)


def _threads(paths: Sequence[Path]) -> int:
    # Decoders release Python's lock, but in a file this small most of the time goes into the Python around them:
    # two threads decode CIFAR's PNG files half as fast as one does.
    sizes = [path.stat().st_size for path in paths[:CHUNK] if path.exists()]
    return 1 if sum(sizes) < 4096 * len(sizes) else min(32, os.cpu_count() or 1)
