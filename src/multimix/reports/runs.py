"""Runs as they lie on disk: found, read, and grouped into the things a page compares."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training import Config, RunDirectory
from ..training.records import best_record
from ..training.rundir import DataInfo

BASELINE = "erm"
"""What every other method is compared with."""

# These do not make runs different things to compare: the seed is what is averaged over, the rest is the machine.
_INCIDENTAL = frozenset(
    {"seed", "method", "data_root", "download", "workers", "evaluate_every", "evaluate_train",
     "checkpoint_minutes", "tensorboard",
     "accelerator", "devices", "nodes"}
)  # fmt: skip

_EPOCH = ("epoch", "train_loss", "seconds")
_LAST_EPOCH = (*_EPOCH, "test_accuracy", "test_ece", "test_loss")

_METRICS_AGAIN = "delete it and result.json, and training with --resume writes both again from the last checkpoint"


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    config: Config
    data_info: DataInfo
    metrics: Sequence[Mapping[str, Any]]
    """`metrics.jsonl`: one object for each epoch."""
    result: Mapping[str, Any] | None
    """`result.json`: the last and the best epoch; None while the run is not finished."""
    environment: Mapping[str, Any]
    """`environment.json`: versions and hardware."""

    @property
    def finished(self) -> bool:
        return self.result is not None

    @property
    def seconds(self) -> float:
        """Training and evaluation of all epochs."""
        return math.fsum(float(epoch["timing"]["seconds"]) for epoch in self.metrics)

    @property
    def last(self) -> Mapping[str, Any]:
        """The metrics of the last epoch."""
        return self.metrics[-1]

    @property
    def best(self) -> Mapping[str, Any]:
        """The metrics of the best epoch, by validation accuracy, or by test accuracy without a validation split."""
        return best_record(self.metrics)


@dataclass(frozen=True)
class Group:
    """The runs that differ only in their seed."""

    label: str
    method: str
    setting: str
    """The settings in which runs of a page differ, with their values; "" where there are none."""
    runs: Mapping[int, Run]
    """By seed, ascending."""
    baseline: str | None
    """The label of ERM with the same settings, which this one is compared with; None for ERM or without one."""


def read_run(path: Path) -> Run:
    """Read one run directory.

    Raises:
        FileNotFoundError: the folder does not exist, or is not a run.
        ValueError: one of its files is not what training writes.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: pass the folder of a run, as `multimix train --out` made it")
    run = RunDirectory(path)
    config, data_info = run.read_config()
    result = _result(run.result)
    metrics = _read_lines(run.metrics, finished=result is not None)
    if result is not None and not metrics:
        raise ValueError(f"{run.metrics} is missing or empty although the run has finished: {_METRICS_AGAIN}")
    return Run(
        path=path,
        config=config,
        data_info=data_info,
        metrics=metrics,
        result=result,
        environment=_environment(run.environment),
    )


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Every run that is one of `paths` or lies below one, in the order of the paths and then of their names.

    Raises:
        FileNotFoundError: a path does not exist, or holds no run.
        ValueError: as for `read_run`.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder: pass run folders, or folders that hold runs")
        folders = [path] if RunDirectory(path).config.is_file() else _folders_with_config(path)
        if not folders:
            raise FileNotFoundError(f"{path} holds no run: no config.json in it or below it")
        for folder in folders:
            found.setdefault(folder.resolve(), read_run(folder))
    return list(found.values())


def _folders_with_config(path: Path) -> list[Path]:
    """At or below a folder, links followed, each once."""
    seen: set[str] = set()
    found = []
    for where, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(where, name)), name))
        if "config.json" in files:
            found.append(Path(where))
    return sorted(found)


def group_runs(runs: Iterable[Run], order: Sequence[str] = ()) -> list[Group]:
    """Gather the runs that differ only in their seed, ERM first, unless `order` lists the methods.

    A group is called by its method; where runs of one method differ in other settings, these are added.

    Raises:
        ValueError: two runs have the same configuration and seed, or the runs are on different data.
    """
    runs = list(runs)
    first = runs[0]
    for run in runs:
        if _data(run) != _data(first):
            raise ValueError(f"{first.path} and {run.path} are on different data: make one report for each")
    settings = [{k: v for k, v in run.config.to_json().items() if k not in _INCIDENTAL} for run in runs]
    varying = [key for key in settings[0] if any(setting[key] != settings[0][key] for setting in settings)]
    groups: dict[tuple[str, str], dict[int, Run]] = {}
    for run, values in zip(runs, settings, strict=True):
        setting = ", ".join(f"{key}={values[key]}" for key in varying)
        members = groups.setdefault((run.config.method, setting), {})
        seed = run.config.seed
        if seed in members:
            label = _label(run.config.method, setting)
            raise ValueError(f"{run.path} and {members[seed].path} are both {label} with seed {seed}: leave out one")
        members[seed] = run
    made = [
        Group(
            _label(method, setting),
            method,
            setting,
            dict(sorted(members.items())),
            _label(BASELINE, setting) if method != BASELINE and (BASELINE, setting) in groups else None,
        )
        for (method, setting), members in groups.items()
    ]
    rank = {method: position for position, method in enumerate(dict.fromkeys(order or [BASELINE]))}
    return sorted(made, key=lambda group: rank.get(group.method, len(rank)))


def _label(method: str, setting: str) -> str:
    return f"{method}, {setting}" if setting else method


def _data(run: Run) -> tuple[object, ...]:
    """What must agree for two test accuracies to be comparable."""
    return run.config.data, run.config.held_out, run.data_info["class_names"], run.data_info["test_examples"]


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): the file is damaged") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(value).__name__}")
    return value


def _result(path: Path) -> Mapping[str, Any] | None:
    try:
        return _read_json(path) if path.is_file() else None
    except ValueError as error:
        raise ValueError(
            f"{error}: delete it, and training with --resume writes it again from the last checkpoint"
        ) from None


def _environment(path: Path) -> Mapping[str, Any]:
    """Versions and hardware, which are said on pages and decide nothing."""
    try:
        return _read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{error}: delete it: it says only on which machine the run was made") from None


def _read_lines(path: Path, *, finished: bool) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    records = []
    # Not decoded as a whole: the line that is damaged can then be named.
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)
        try:
            record = json.loads(line)
        except ValueError:
            # A run that is being written, or was killed, may end in half a line.
            if finished or not last:
                raise ValueError(f"{path}, line {number} is not valid JSON: {_METRICS_AGAIN}") from None
        else:
            _check_epoch(f"{path}, line {number}", record, _LAST_EPOCH if finished and last else _EPOCH)
            records.append(record)
    return records


def _check_epoch(where: str, record: Any, names: Sequence[str]) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{where} must hold a JSON object, got a {type(record).__name__}: {_METRICS_AGAIN}")
    timing = record.get("timing")
    numbers = record | (timing if isinstance(timing, dict) else {})
    lacking = [name for name in names if not isinstance(numbers.get(name), int | float)]
    if lacking:
        raise ValueError(f"{where} lacks the numbers {', '.join(lacking)}: {_METRICS_AGAIN}")
