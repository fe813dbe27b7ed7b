"""How the methods differ from ERM in every headline number, over runs paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..reports.cells import NOTHING, Cell, Table, difference_cell
from ..reports.section import Section
from ..reports.statistics import Difference, paired_difference
from .results import Numbers, wrapped

__all__ = ["as_rows", "differences_from_erm", "differences_section"]

Differences = Mapping[str, Mapping[str, Difference]]
"""By label, then by title of the headline number, in its unit."""


def differences_from_erm(
    numbers: Mapping[str, Numbers], baselines: Mapping[str, str]
) -> dict[str, dict[str, Difference]]:
    """Of every label that shares a seed and a headline number with ERM with the same settings.

    Args:
        numbers: headline numbers by label, as `results.headlines` returns them.
        baselines: as in `Legend`.

    >>> numbers = {"erm": {"NLL ↓": {0: 1.0, 1: 2.0}}, "cutmix": {"NLL ↓": {0: 1.5, 1: 2.5, 2: 9.0}}}
    >>> differences_from_erm(numbers, {"cutmix": "erm"})
    {'cutmix': {'NLL ↓': Difference(mean=0.5, half_width=0.0, n=2)}}
    """
    found = {}
    for label, erm in baselines.items():
        reference = numbers.get(erm, {})
        pairs = {t: paired_difference(seeds, reference[t]) for t, seeds in numbers[label].items() if t in reference}
        found[label] = {title: difference for title, difference in pairs.items() if difference is not None}
    return {label: of_label for label, of_label in found.items() if of_label}


def as_rows(differences: Differences, baselines: Mapping[str, str]) -> list[dict[str, Any]]:
    """For JSON: one object for each label and number."""
    return [
        {"label": label, "baseline": baselines[label], "number": title, **difference.as_json()}
        for label, of_label in differences.items()
        for title, difference in of_label.items()
    ]


def differences_section(differences: Differences, colors: Mapping[str, str]) -> Section | None:
    """A row for each label, a column for each number; None where no label has two pairs of runs."""
    if not any(d.verdict != "unknown" for of_label in differences.values() for d in of_label.values()):
        return None
    titles = list(dict.fromkeys(title for of_label in differences.values() for title in of_label))
    digits = {
        title: _digits([of_label[title] for of_label in differences.values() if title in of_label]) for title in titles
    }
    rows = [
        [
            Cell(label, label, color=colors.get(label, "")),
            *(_cell(of_label.get(title), digits[title]) for title in titles),
        ]
        for label, of_label in differences.items()
    ]
    return Section(
        "Difference from ERM",
        "In the unit of each number: the mean of the differences between runs with the same seed and the same settings "
        "± the half-width of its 95 % t-interval. Bold are differences whose interval excludes zero, whichever way "
        "they go; the others are within the noise. The intervals are not corrected for the number of comparisons: of a "
        "hundred differences that are none, five would be bold. They cover the noise of training, not that of the "
        "choice of test images.",
        table=Table(["method", *map(wrapped, titles)], rows),
    )


def _digits(column: Sequence[Difference]) -> int:
    """Decimals that suit the largest number of a column."""
    size = max(max(abs(d.mean), 0 if math.isnan(d.half_width) else d.half_width) for d in column)
    return 3 if size < 1 else 2 if size < 1000 else 0


def _cell(difference: Difference | None, digits: int) -> Cell:
    if difference is None:
        return NOTHING
    return difference_cell(difference, digits=digits, scale=1, top=difference.verdict in ("higher", "lower"))
