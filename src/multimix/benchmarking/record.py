"""What a benchmark found: printed as it comes, and written to a file row by row, so that an interrupt loses nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Self

from ..files import write_json
from ..machine import this_machine


class Record(AbstractContextManager["Record"]):
    """Prints the machine; then collects rows by table, and writes everything to `path` (if any) after every row.

    As a context it refuses what cannot be written before anything is measured. A file that was there stays until the
    new one is whole: what an interrupt leaves is beside it then. A disk that becomes full stops no measurement.

    Args:
        setting: the options of the benchmark.
        packages: as for `this_machine`.
    """

    def __init__(self, path: Path | None, setting: Mapping[str, Any], *packages: str) -> None:
        self._path = self._file = path and Path(os.path.realpath(path))  # a link stays one
        self._unwritten = False
        self.began = time.perf_counter()
        machine = this_machine(*packages)
        self.found: dict[str, Any] = {"machine": machine, "setting": json.loads(json.dumps(setting, default=str))}
        print("  ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                if not self._path.is_file():
                    raise OSError("it is not a file that could be replaced")
                _refuse_other(self._path)
                self._file = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.partial")
            self._save()
        except OSError as error:
            raise OSError(f"cannot write {self._path} ({error.strerror or error}): name another file") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._path is None or self._file is None:
            return
        if kind is None:
            self._save()
            if self._file != self._path:
                os.replace(self._file, self._path)
        elif not any(isinstance(value, list) for value in self.found.values()):
            with suppress(OSError):
                self._file.unlink()
        elif not self._unwritten:
            print(f"\nStopped; what was measured is in {self._file}", file=sys.stderr)

    def add(self, table: str, row: Any) -> None:
        """One row of a table, a dataclass or a dictionary."""
        self.found.setdefault(table, []).append(_plain(row))
        self._write()

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Something that belongs to all rows."""
        self.found[name] = dict(value)
        self._write()

    def _write(self) -> None:
        try:
            self._save()
            self._unwritten = False
        except OSError as error:
            if not self._unwritten:  # there may be room again at the next row, which writes all of them
                warnings.warn(f"results cannot be saved for now: {error}", stacklevel=3)
            self._unwritten = True

    def _save(self) -> None:
        self.found["seconds"] = round(time.perf_counter() - self.began, 1)
        if self._file is not None:
            write_json(self._file, self.found)


def _refuse_other(path: Path) -> None:
    """Raise ValueError where the file is not what a benchmark wrote, but somebody's data."""
    try:
        ours = "machine" in json.loads(path.read_bytes())
    except (ValueError, TypeError):
        ours = not path.stat().st_size
    if not ours:
        raise ValueError(f"{path} is there already, and is not what a benchmark wrote: name another file")


def _plain(value: Any) -> Any:
    """Dataclasses and named tuples as mappings, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
