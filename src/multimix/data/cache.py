"""Tensors that took long to compute, kept in files: a stale or broken file is made anew, never trusted."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..extras import require

__all__ = ["cache_folder", "remember"]


def cache_folder() -> Path:
    """`$MULTIMIX_CACHE`, or `multimix` in `$XDG_CACHE_HOME`, or `~/.cache/multimix`."""
    if chosen := os.environ.get("MULTIMIX_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "multimix"


def remember(name: str, fingerprint: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `build` makes, from the cache file `name` if it was written with the same fingerprint.

    One process builds while others wait for it. Where the cache folder cannot be written, everything works, with
    a warning, but nothing is kept.
    """
    # torch depends on it
    from filelock import FileLock

    path = cache_folder() / "decoded" / f"{name}.safetensors"
    found = _read(path, fingerprint)
    if found is not None:
        return found
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        _warn(path, error)
        return build()
    try:
        found = _read(path, fingerprint)
        if found is None:
            found = build()
            _write(path, fingerprint, found)
        return found
    finally:
        lock.release()


def _read(path: Path, fingerprint: str) -> dict[str, Tensor] | None:
    safetensors = require("safetensors", "train")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, safetensors.SafetensorError):
        return None


def _write(path: Path, fingerprint: str, tensors: dict[str, Tensor]) -> None:
    safetensors = require("safetensors", "train")
    torch_io = require("safetensors.torch", "train")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        torch_io.save_file(tensors, partial, metadata={"fingerprint": fingerprint})
        os.replace(partial, path)
    except (OSError, safetensors.SafetensorError) as error:
        _warn(path, error)
    finally:
        partial.unlink(missing_ok=True)


def _warn(path: Path, error: Exception) -> None:
    warnings.warn(
        f"decoded images are not kept for the next time, because {path} cannot be written ({error}): "
        "set MULTIMIX_CACHE to a folder that can",
        stacklevel=3,
    )
