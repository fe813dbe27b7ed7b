"""`compare.json`: what a comparison, a sweep or a domain set out to do, so that it can continue, and a page can say
what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..files import write_json
from ..training import RunDirectory
from .runs import Run, read_run

_NAME = "compare.json"


@dataclass(frozen=True)
class Speed:
    """Training speed of one method."""

    images_per_second: float
    relative: float
    """Over ERM's: the median over rounds of the ratio within a round."""
    rounds: int | None = None
    """In how many it took turns with ERM; None where that was not noted."""


@dataclass(frozen=True)
class Plan:
    """Methods x seeds, in a folder."""

    folder: Path
    methods: Sequence[str]
    seeds: Sequence[int]
    command: str
    """The command line that made (or last continued) the comparison."""
    started: str
    """ISO date and time of the first start."""
    speed: Mapping[str, Speed] = field(default_factory=dict)
    """By method; empty until it has been measured."""
    speed_conditions: str = ""
    """How, in a sentence for the page."""
    speed_setting: Mapping[str, str] = field(default_factory=dict)
    """What must be the same for further speeds to stand beside these (`reports.speed.speed_setting`)."""

    def jobs(self, methods: Sequence[str] | None = None) -> Iterator[tuple[str, int, Path]]:
        """(method, seed, run folder), seed by seed, so that a comparison that is stopped early is balanced.

        Of all methods, or of those given.
        """
        for seed in self.seeds:
            for method in self.methods if methods is None else methods:
                yield method, seed, self.folder / folder_name(method) / f"seed{seed}"

    def ended(self, methods: Sequence[str] | None = None) -> list[Path]:
        """The folders of the runs that have ended, of all methods or of those given."""
        return [out for _, _, out in self.jobs(methods) if RunDirectory(out).result.is_file()]

    def finished(self) -> list[Run]:
        """The runs that have ended; whatever else lies in the folder is not looked at."""
        return [read_run(out) for out in self.ended()]

    def write(self) -> None:
        """Write `compare.json`; a kill leaves the old file or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        value = asdict(self) | {"speed": {method: asdict(speed) for method, speed in self.speed.items()}}
        del value["folder"]
        write_json(self.folder / _NAME, value)


def read_plan(folder: Path) -> Plan | None:
    """The plan of a comparison's folder, or None when the folder is not one.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        value["speed"] = {method: Speed(**speed) for method, speed in value["speed"].items()}
        return Plan(folder=folder, **value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what `multimix compare`, `sweep` and `domains` write ({error}): delete it, and the "
            "same command writes it again; the runs are kept"
        ) from None


def folder_name(name: str) -> str:
    """The name of a method, a domain or a figure without the characters that a shell or a file system minds.

    >>> folder_name("multimix(alpha=0.1, n=100)")
    'multimix-alpha=0.1-n=100'
    """
    return re.sub(r"[^\w.=-]+", "-", name).strip("-")
