"""What a benchmark found: printed as it comes, and written to a file row by row, so that an interrupt loses nothing."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..training.files import write_json
from .measure import hardware


class Record:
    """Prints the machine; then collects rows by table, and writes everything to `path` (if any) after every row.

    Args:
        setting: the options of the benchmark.
        packages: as for `hardware`.
    """

    def __init__(self, path: Path | None, setting: Mapping[str, Any], *packages: str) -> None:
        self.path = path
        self.began = time.perf_counter()
        machine = hardware(*packages)
        self.found: dict[str, Any] = {"machine": machine, "setting": json.loads(json.dumps(setting, default=str))}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        print("  ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    def add(self, table: str, row: Any) -> None:
        """One row of a table, a dataclass or a dictionary."""
        self.found.setdefault(table, []).append(_plain(row))
        self._write()

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Something that belongs to all rows."""
        self.found[name] = dict(value)
        self._write()

    def _write(self) -> None:
        self.found["seconds"] = round(time.perf_counter() - self.began, 1)
        if self.path is not None:
            write_json(self.path, self.found)


def _plain(value: Any) -> Any:
    """Dataclasses and named tuples as mappings, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
