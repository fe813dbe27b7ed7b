"""From runs to numbers: one row for each method, and the differences from ERM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .plan import Plan, Speed, read_plan
from .runs import BASELINE, Group, Run, find_runs, group_runs
from .statistics import Difference, Estimate, estimate, paired_difference


@dataclass(frozen=True)
class Row:
    """The finished runs of one method. Accuracies and calibration errors are fractions in [0, 1]."""

    label: str
    method: str
    seeds: Sequence[int]
    last_accuracy: Estimate
    """Test accuracy after the last epoch."""
    best_accuracy: Estimate
    """Test accuracy of the best epoch (see `Run.best`)."""
    ece: Estimate
    nll: Estimate
    baseline: str | None
    """The label of the ERM row with the same settings, which this one is compared with; None for ERM or without one."""
    accuracy_difference: Difference | None
    """Last test accuracy minus the baseline's, paired by seed; None without a baseline or a common seed."""
    ece_difference: Difference | None
    nll_difference: Difference | None
    speed: Speed | None
    """Measured side by side (see `multimix.reports.speed`) in the comparison that the runs are of; None where it was
    not."""


@dataclass(frozen=True)
class Summary:
    """Everything a page or a table says in numbers."""

    rows: Sequence[Row]
    groups: Sequence[Group]
    """The finished runs behind each row, in the same order."""
    baselines: Sequence[str]
    """The labels of the ERM rows, one for each of the settings that it was trained with."""
    missing: Sequence[str]
    """What was planned or begun and is not finished, one line each."""
    plans: Sequence[Plan]

    @property
    def one_setting(self) -> bool:
        """Whether the runs differ in nothing but method and seed."""
        return len({group.setting for group in self.groups}) == 1

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs.values()]


def summarize(paths: Iterable[Path]) -> Summary:
    """Read run folders, or folders that hold runs, and summarise the finished ones.

    Raises:
        FileNotFoundError: a path does not exist or holds no run.
        ValueError: no run is finished, files are damaged, or the runs cannot be compared.
    """
    paths = list(paths)
    plans = [plan for path in paths if (plan := read_plan(path)) is not None]
    runs = find_runs(paths)
    finished = [run for run in runs if run.finished]
    missing = _missing(runs, plans)
    if not finished:
        raise ValueError(f"no run is finished, so there is nothing to report: {'; '.join(missing)}")
    groups = group_runs(finished, order=[method for plan in plans for method in plan.methods])
    by_label = {group.label: group for group in groups}
    return Summary(
        rows=[_row(group, by_label.get(group.baseline or ""), _speed(group, plans)) for group in groups],
        groups=groups,
        baselines=[group.label for group in groups if group.method == BASELINE],
        missing=missing,
        plans=plans,
    )


def _row(group: Group, baseline: Group | None, speed: Speed | None) -> Row:
    last = {name: {s: float(run.last[name]) for s, run in group.runs.items()} for name in _LAST}
    differences: dict[str, Difference | None] = dict.fromkeys(_LAST)
    if baseline is not None:
        for name in _LAST:
            reference = {s: float(run.last[name]) for s, run in baseline.runs.items()}
            differences[name] = paired_difference(last[name], reference)
    return Row(
        label=group.label,
        method=group.method,
        seeds=list(group.runs),
        last_accuracy=estimate(list(last["test_accuracy"].values())),
        best_accuracy=estimate([float(run.best["test_accuracy"]) for run in group.runs.values()]),
        ece=estimate(list(last["test_ece"].values())),
        nll=estimate(list(last["test_loss"].values())),
        baseline=group.baseline,
        accuracy_difference=differences["test_accuracy"],
        ece_difference=differences["test_ece"],
        nll_difference=differences["test_loss"],
        speed=speed,
    )


def _speed(group: Group, plans: Iterable[Plan]) -> Speed | None:
    """As the comparison measured it that the runs lie in; another one may have had other settings."""
    by_folder = {plan.folder.resolve(): plan for plan in plans}
    for run in group.runs.values():
        plan = next((by_folder[folder] for folder in run.path.resolve().parents if folder in by_folder), None)
        if plan is not None and group.method in plan.speed:
            return plan.speed[group.method]
    return None


_LAST = ("test_accuracy", "test_ece", "test_loss")


def _missing(runs: Iterable[Run], plans: Iterable[Plan]) -> list[str]:
    lines = []
    by_path = {run.path.resolve(): run for run in runs}
    for plan in plans:
        for method, seed, path in plan.jobs():
            if path.resolve() not in by_path:
                lines.append(f"{method}, seed {seed}: not started")
    for run in by_path.values():
        if not run.finished:
            lines.append(
                f"{run.config.method}, seed {run.config.seed}: {len(run.metrics)} of {run.config.epochs} epochs"
            )
    return lines
