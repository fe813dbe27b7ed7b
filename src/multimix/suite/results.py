"""The headline numbers of every part: one table, and rows for JSON and CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..reports.cells import Table
from ..reports.tables import csv_text, estimates_table
from .part import Part
from .running import Outcome, options_of
from .subjects import Which

__all__ = ["Numbers", "as_csv", "as_json", "by_label", "headlines", "kinds_of", "overview", "wrapped"]

Numbers = Mapping[str, Mapping[int, float]]
"""By column title, then by seed."""


def kinds_of(outcomes: Sequence[Outcome]) -> list[Which | None]:
    """The kinds of weights that were evaluated; [None] where no model comes from a run."""
    found: list[Which | None] = list(dict.fromkeys(o.candidate.which for o in outcomes if o.candidate.which))
    return found or [None]


def by_label(outcomes: Sequence[Outcome], *, which: str | None) -> dict[str, list[Outcome]]:
    """The outcomes of one kind of weights, those that differ in their seed together."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.candidate.which in (which, None):
            found.setdefault(outcome.candidate.label, []).append(outcome)
    return found


def headlines(outcomes: Sequence[Outcome], parts: Sequence[Part]) -> Numbers:
    """The headline numbers of the seeds of one label."""
    found: dict[str, dict[int, float]] = {}
    for part in parts:
        for outcome in outcomes:
            if part.name in outcome.results:
                for title, value in part.headline(outcome.results[part.name]).items():
                    found.setdefault(title, {})[outcome.candidate.seed] = value
    return found


def overview(outcomes: Sequence[Outcome], parts: Sequence[Part], colors: Mapping[str, str]) -> Table:
    """Mean ± standard deviation over seeds; rows of the best epoch say so where there are others."""
    kinds = kinds_of(outcomes)
    # Some rows lack columns, and all together are in the order of the parts.
    titles = list(dict.fromkeys(title for part in parts for title in headlines(outcomes, [part])))
    rows: dict[str, dict[str, list[float]]] = {}
    row_colors = {}
    for which in kinds:
        for label, group in by_label(outcomes, which=which).items():
            name = f"{label}, best epoch" if which == "best" and len(kinds) > 1 and group[0].candidate.which else label
            numbers = headlines(group, parts)
            rows[name] = {wrapped(title): list(numbers.get(title, {}).values()) for title in titles}
            row_colors[name] = colors.get(label, "")
    return estimates_table(rows, row_colors)


def wrapped(title: str) -> str:
    """A column title in short lines, its unit and arrow kept together.

    >>> wrapped("FGSM 8/255 error, % ↓").splitlines()
    ['FGSM 8/255', 'error, % ↓']
    """
    return textwrap.fill(title.replace(", % ", ",\xa0%\xa0"), 14, break_long_words=False).replace("\xa0", " ")


def as_json(outcomes: Sequence[Outcome], parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Everything about every classifier: what it is, the headline numbers, and whole results by part."""
    options = {part.name: options_of(part) for part in parts}
    return [
        {
            "label": outcome.candidate.label,
            "seed": outcome.candidate.seed,
            "which": outcome.candidate.which,
            "method": outcome.candidate.method,
            "data": outcome.candidate.data,
            "model": outcome.candidate.model,
            "source": outcome.candidate.source,
            "parts": {
                part.name: {
                    "options": options[part.name],
                    "headline": part.headline(outcome.results[part.name]),
                    "result": outcome.results[part.name],
                }
                for part in parts
                if part.name in outcome.results
            },
            "failures": outcome.failures,
        }
        for outcome in outcomes
    ]


def as_csv(outcomes: Sequence[Outcome], parts: Sequence[Part]) -> str:
    """One line for each classifier, one column for each headline number; empty where it was not measured."""
    rows = []
    for outcome in outcomes:
        about = outcome.candidate
        row: dict[str, Any] = {
            "label": about.label,
            "method": about.method,
            "seed": about.seed,
            "which": about.which,
            "model": about.model,
            "source": about.source,
        }
        numbers = headlines([outcome], parts)
        rows.append(row | {title.rstrip(" ↑↓"): seeds[about.seed] for title, seeds in numbers.items()})
    columns = list(dict.fromkeys(title for row in rows for title in row))
    return csv_text(columns, [[row.get(title, "") for title in columns] for row in rows])
