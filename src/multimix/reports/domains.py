"""Leave-one-domain-out: the accuracy on every domain held out in turn, and the average over domains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .runs import Run
from .statistics import Estimate, estimate
from .tables import Cell, Table, csv_text


@dataclass(frozen=True)
class Row:
    """One method; accuracies on the held-out domain after the last epoch, fractions, over seeds."""

    method: str
    domains: Mapping[str, Estimate | None]
    """By held-out domain; None where no run is finished."""
    average: Estimate | None
    """Over seeds, of the mean over domains; of the seeds that are finished on every domain."""


def rows(methods: Sequence[str], domains: Sequence[str], runs: Sequence[Run]) -> list[Row]:
    """A row for each method, from the finished runs."""
    found: dict[str, dict[str, dict[int, float]]] = {m: {domain: {} for domain in domains} for m in methods}
    for run in runs:
        seeds = found.get(run.config.method, {}).get(run.config.held_out or "")
        if run.finished and seeds is not None:
            seeds[run.config.seed] = float(run.last["test_accuracy"])
    made = []
    for method, by_domain in found.items():
        complete = sorted(set.intersection(*(set(seeds) for seeds in by_domain.values())))
        averages = [math.fsum(seeds[k] for seeds in by_domain.values()) / len(domains) for k in complete]
        each = {domain: estimate(list(seeds.values())) if seeds else None for domain, seeds in by_domain.items()}
        made.append(Row(method, each, estimate(averages) if averages else None))
    return made


def table(found: Sequence[Row]) -> Table:
    """One row for each method, one column for each held-out domain, and the average."""
    domains = list(found[0].domains)
    columns = [[row.domains[domain] for row in found] for domain in domains] + [[row.average for row in found]]
    best = [max((round(e.mean, 4) for e in column if e is not None), default=None) for column in columns]
    lines = []
    for row in found:
        cells = [Cell(row.method, row.method)]
        for value, top in zip([*row.domains.values(), row.average], best, strict=True):
            cells.append(_cell(value, top))
        lines.append(cells)
    return Table(["accuracy on the held-out domain, %", *domains, "average"], lines)


def as_json(found: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain values; fractions."""

    def plain(value: Estimate | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {"mean": value.mean, "std": None if math.isnan(value.std) else value.std, "seeds": value.n}

    return [
        {
            "method": row.method,
            "domains": {domain: plain(value) for domain, value in row.domains.items()},
            "average": plain(row.average),
        }
        for row in found
    ]


def as_csv(runs: Sequence[Run]) -> str:
    """One line for each finished run: the accuracy on the held-out domain after the last epoch, and after the one with
    the best accuracy on the validation split of the source domains, where there is one."""
    rows = []
    for run in runs:
        if run.finished:
            chosen = run.best["test_accuracy"] if "val_accuracy" in run.last else ""
            config = run.config
            rows.append([config.method, config.held_out, config.seed, run.last["test_accuracy"], chosen])
    return csv_text(["method", "held_out", "seed", "test_accuracy", "test_accuracy_of_best_val"], rows)


def _cell(value: Estimate | None, best: float | None) -> Cell:
    if value is None:
        return Cell("–", "")
    spread = "" if math.isnan(value.std) else f"± {100 * value.std:.2f}"
    return Cell(f"{100 * value.mean:.2f}", value.mean, spread=spread, top=round(value.mean, 4) == best)
