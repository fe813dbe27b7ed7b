"""What a benchmark found: printed as it comes, and written to a file row by row, so that an interrupt loses nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..benchmarking.measure import hardware
from ..training.files import write_json


class Record:
    """Prints the machine; then collects rows by table, and writes everything to `path` (if any) after every row."""

    def __init__(self, path: Path | None, options: Any) -> None:
        self.path = path
        machine = hardware()
        self.found: dict[str, Any] = {
            "machine": machine,
            "setting": json.loads(json.dumps(dataclasses.asdict(options), default=str)),
        }
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        print("  ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    def add(self, table: str, row: Any) -> None:
        """One row, a dataclass, of a table."""
        self.found.setdefault(table, []).append(_plain(row))
        self._write()

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Something that belongs to all rows."""
        self.found[name] = dict(value)
        self._write()

    def _write(self) -> None:
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
