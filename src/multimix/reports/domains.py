"""Leave-one-domain-out: the accuracy on every domain held out in turn, and the average over domains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cells import Cell, Table, best_of, difference_cell, percent_cell
from .charts import dots_and_bars
from .headline import sentence
from .page import fill
from .runs import BASELINE, Run
from .section import Panel, Section
from .statistics import Difference, Estimate, estimate, paired_difference
from .style import INK, figure, method_colors, to_svg
from .tables import csv_text


@dataclass(frozen=True)
class Row:
    """One method; accuracies on the held-out domain after the last epoch, fractions, over seeds."""

    method: str
    domains: Mapping[str, Estimate | None]
    """By held-out domain; None where no run is finished."""
    average: Estimate | None
    """Over seeds, of the mean over domains; of the seeds that are finished on every domain."""
    difference: Difference | None = None
    """Of the average from ERM's, paired by seed; None for ERM, and without a seed that both have."""


def rows(methods: Sequence[str], domains: Sequence[str], runs: Sequence[Run]) -> list[Row]:
    """A row for each method, from the finished runs."""
    found: dict[str, dict[str, dict[int, float]]] = {m: {domain: {} for domain in domains} for m in methods}
    for run in runs:
        seeds = found.get(run.config.method, {}).get(run.config.held_out or "")
        if run.finished and seeds is not None:
            seeds[run.config.seed] = float(run.last["test_accuracy"])
    averages = {method: _averages(by_domain) for method, by_domain in found.items()}
    made = []
    for method, by_domain in found.items():
        each = {domain: estimate(list(seeds.values())) if seeds else None for domain, seeds in by_domain.items()}
        mine = averages[method]
        difference = None if method == BASELINE else paired_difference(mine, averages.get(BASELINE, {}))
        made.append(Row(method, each, estimate(list(mine.values())) if mine else None, difference))
    return made


def _averages(by_domain: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """By seed, of those that are finished on every domain."""
    complete = sorted(set.intersection(*(set(seeds) for seeds in by_domain.values())))
    return {k: math.fsum(seeds[k] for seeds in by_domain.values()) / len(by_domain) for k in complete}


def table(found: Sequence[Row]) -> Table:
    """One row for each method, one column for each held-out domain, and the average."""
    domains = list(found[0].domains)
    columns = [[row.domains[domain] for row in found] for domain in domains] + [[row.average for row in found]]
    best = [best_of([e and e.mean for e in column], digits=4) for column in columns]
    compared, lines = any(row.difference for row in found), []
    for row in found:
        cells = [Cell(row.method, row.method)]
        for value, top in zip([*row.domains.values(), row.average], best, strict=True):
            cells.append(percent_cell(value, top))
        if compared:
            cells.append(difference_cell(row.difference))
        lines.append(cells)
    titles = ["accuracy on the held-out domain, %", *domains, "average"]
    return Table([*titles, "average over\nERM's, points"] if compared else titles, lines)


def panel(found: Sequence[Row]) -> str:
    """The accuracies on every held-out domain, and their averages, with a dot for each method."""
    colors = method_colors([row.method for row in found], BASELINE)
    places = [*found[0].domains, "average"]
    with figure(min(9.0, 2.0 + 1.1 * len(places)), 3.2) as (drawn, axes):
        for k, row in enumerate(found):
            values = [*row.domains.values(), row.average]
            shift = 0.6 * ((k + 0.5) / len(found) - 0.5)
            done = [(x + shift, value) for x, value in enumerate(values) if value is not None]
            dots_and_bars(axes, done, label=row.method, color=colors[row.method], linestyle="none", marker="o")
        axes.set_xticks(range(len(places)), places, rotation=20 if len(places) > 5 else 0)
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.axvline(len(places) - 1.5, color=INK, linewidth=0.8, linestyle=(0, (1, 3)))
        axes.set_ylabel("accuracy, %")
        return to_svg(drawn, "accuracy on every held-out domain, a dot for each method")


def page(found: Sequence[Row], *, conditions: Mapping[str, str]) -> str:
    """The page: who is ahead on average, the table, and a dot for each number of it."""
    section = Section(
        "Domain by domain",
        "Mean over seeds of the accuracy on the domain that was held out; bars are one standard deviation. Look at "
        "whether a method is ahead on all domains, and by more than the bars.",
        [Panel("held out", panel(found))],
        legend=method_colors([row.method for row in found], BASELINE),
    )
    return fill(
        title="Leave one domain out",
        kicker="multimix domains",
        headline=headline(found),
        headline_note="Each number is of images of a domain that was not trained on, after the last epoch."
        + (
            " In brackets: the mean difference from ERM in percentage points, over runs paired by seed, with its 95 % "
            "t-interval, not corrected for the number of methods."
            if any(row.difference for row in found)
            else ""
        ),
        missing=[
            f"{row.method}, {domain} held out: no finished run"
            for row in found
            for domain, value in row.domains.items()
            if value is None
        ],
        results=table(found),
        results_note="Mean ± standard deviation over seeds; the average is over domains first, of the seeds that are "
        "finished on all of them; bold is the best mean of a column, whatever the noise.",
        sections=[section],
        conditions=conditions,
    )


def headline(found: Sequence[Row]) -> list[str]:
    """Who is ahead on average, and how the methods differ from ERM."""
    averages = [(row.average.mean, row.method) for row in found if row.average is not None]
    if not averages:
        return ["No method is finished on every domain yet."]
    highest, method = max(averages)
    best = f"Highest average over the held-out domains: {100 * highest:.2f} % with {method}."
    told = {row.method: row.difference for row in found if row.difference}
    return [best, "Of that average: " + sentence("accuracy", told, higher_is_better=True)] if told else [best]


def as_json(found: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain values; fractions."""
    return [
        {
            "method": row.method,
            "domains": {domain: value and value.as_json() for domain, value in row.domains.items()},
            "average": row.average and row.average.as_json(),
            "difference_from_erm": row.difference and row.difference.as_json(),
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
