"""A sweep: the accuracy of methods over the values of one option at a time, as in Figure 4 of the paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from .. import published
from ..methods import canonical, spelled, split_list
from ..training import Config
from .cells import NOTHING, Cell, Table, best_of, difference_cell, number_cell, percent_cell
from .charts import dots_and_bars
from .headline import points as differing
from .page import fill
from .runs import Run
from .section import Panel, Section
from .statistics import Difference, Estimate, Verdict, estimate, paired_difference
from .style import INK, figure, method_colors, to_svg
from .tables import csv_text

DEFAULT = "as it is"

Split = Literal["validation", "test"]
"""Whose images accuracies are of."""


@dataclass(frozen=True)
class Axis:
    """One option and the values that it takes."""

    option: str
    values: Sequence[str]
    """As on the command line."""


@dataclass(frozen=True)
class Point:
    """One method at one value of one option; accuracies are fractions in [0, 1]."""

    option: str
    """"" for the method as it is."""
    value: str
    base: str
    """The method whose option is varied."""
    method: str
    """The method with the option."""
    accuracy: Estimate | None
    """After the last epoch, over seeds; None where no run is finished."""
    paper: float | None
    """The paper's accuracy in the same setting, where its text states it."""
    difference: Difference | None = None
    """From the method as it is, paired by seed; None for itself, and without a seed that both have."""


def with_option(method: str, option: str, value: str) -> str:
    """A method's text with one more option, or as it is where that says what holds anyway.

    Raises:
        ValueError: the method has the option already, or does not take it.

    >>> with_option("multimix", "n", "100"), with_option("multimix(m=2)", "alpha", "(0.1, 2)")
    ('multimix(n=100)', 'multimix(m=2, alpha=(0.1, 2))')
    >>> with_option("multimix", "n", "1000")
    'multimix'
    """
    name, _, inside = method.strip().removesuffix(")").partition("(")
    if any(given.split("=")[0].strip() == option for given in split_list(inside)):
        raise ValueError(f"{method} has {option} already: sweep another option, or leave it out of the method")
    changed = spelled(f"{name}({inside}{',' if inside else ''}{option}={value})")
    return method if canonical(changed) == canonical(method) else changed


def metric(runs: Sequence[Run]) -> str:
    """What a sweep shows: the accuracy on the validation split if every run has one, so that a setting can be chosen
    by it, else on the test set."""
    return "val_accuracy" if all("val_accuracy" in run.last for run in runs) else "test_accuracy"


def points(
    bases: Sequence[str], axes: Sequence[Axis], runs: Mapping[str, Sequence[Run]], config: Config, key: str
) -> list[Point]:
    """Every method as it is, and every point of every axis, from the finished runs of each method.

    Args:
        bases: the methods whose options are varied.
        axes: what is varied, one at a time.
        runs: finished runs by method.
        config: what all runs have in common.
        key: as `metric` says.
    """
    wanted = [("", DEFAULT, base, base) for base in bases]
    for axis, base in itertools.product(axes, bases):
        with suppress(ValueError):  # of an earlier sweep: the method has the option already, or does not take it
            wanted += [(axis.option, value, base, with_option(base, axis.option, value)) for value in axis.values]
    found = []
    for option, value, base, method in wanted:
        accuracies, as_it_is = (_by_seed(runs.get(name, ()), key) for name in (method, base))
        accuracy = estimate(list(accuracies.values())) if accuracies else None
        difference = None if method == base else paired_difference(accuracies, as_it_is)
        found.append(Point(option, value, base, method, accuracy, _published(method, config), difference))
    return found


def _by_seed(runs: Sequence[Run], key: str) -> dict[int, float]:
    return {run.config.seed: float(run.last[key]) for run in runs}


def panel(axis: Axis, found: Sequence[Point], *, split: Split) -> str:
    """One axis: a line for each method with its standard deviation over seeds, a dashed line for the method as it is,
    and a star for what the paper states of the same setting."""
    bases = list(dict.fromkeys(point.base for point in found))
    colors = method_colors(bases, None)
    with figure(4.6, 3.0) as (drawn, axes):
        for k, base in enumerate(bases):
            # Side by side, or the bars of methods that are alike would hide each other.
            shift = 0.12 * (k - (len(bases) - 1) / 2)
            for point in found:
                if point.base == base and not point.option and point.accuracy is not None:
                    axes.axhline(100 * point.accuracy.mean, color=colors[base], linewidth=1, linestyle=(0, (4, 3)))
            mine = [p for p in found if p.base == base and p.option == axis.option]
            done = [(x + shift, p.accuracy) for x, p in enumerate(mine) if p.accuracy is not None]
            dots_and_bars(axes, done, label=base, color=colors[base])
            stars = [(x + shift, p.paper) for x, p in enumerate(mine) if p.paper is not None]
            if stars:
                axes.plot(*zip(*stars, strict=True), "*", color=colors[base], markersize=10, markeredgecolor=INK)
        long = sum(map(len, axis.values)) > 36
        axes.set_xticks(
            range(len(axis.values)), axis.values, rotation=30 if long else 0, ha="right" if long else "center"
        )
        axes.set_xlim(-0.5, len(axis.values) - 0.5)
        axes.set_xlabel(axis.option)
        axes.set_ylabel(f"{split} accuracy, %")
        if len(bases) > 1:
            drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
        return to_svg(drawn, f"{split} accuracy over {axis.option}, one line for each method")


def table(found: Sequence[Point], *, split: Split) -> Table:
    """One row for each point."""
    best = best_of([p.accuracy and p.accuracy.mean for p in found], digits=4)
    with_paper = any(p.paper is not None for p in found)
    rows = []
    for p in found:
        seeds = 0 if p.accuracy is None else p.accuracy.n
        cells = [
            Cell(p.base, p.base),
            Cell(p.option or "–", p.option),
            Cell(p.value, p.value),
            percent_cell(p.accuracy, best) if seeds else Cell("not measured", ""),
            difference_cell(p.difference),
            Cell(str(seeds), seeds),
        ]
        if with_paper:
            cells.append(NOTHING if p.paper is None else number_cell(p.paper, digits=2))
        rows.append(cells)
    columns = ["method", "option", "value", f"{split} accuracy, %", "over the method\nas it is, points", "seeds"]
    return Table([*columns, "the paper's, %"] if with_paper else columns, rows)


def page(found: Sequence[Point], panels: Mapping[str, str], *, split: Split, conditions: Mapping[str, str]) -> str:
    """The page: a figure for each option, and every point in a table."""
    starred = any(point.paper is not None for point in found)
    caption = (
        "Mean over seeds; bars are one standard deviation; the dashed line is the method as it is. Look at whether the "
        "values differ by more than the bars: with few seeds, neighbouring points rarely do."
        + (" Stars are what the paper states of the same setting, measured by its authors." if starred else "")
    )
    section = Section(
        "One option at a time",
        caption,
        [Panel(option, svg) for option, svg in panels.items()],
    )
    return fill(
        title="Ablations",
        kicker="multimix sweep",
        headline=[headline(found, split=split)],
        headline_note="The best of many settings looks better than it is: confirm it with other seeds before using it."
        + (
            " It was chosen by the test set, which flatters it further: --val-per-class sets a validation split apart."
            if split == "test"
            else ""
        ),
        missing=[f"{point.method}: no finished run" for point in found if point.accuracy is None],
        results=table(found, split=split),
        results_note="Mean ± standard deviation over seeds; bold is the best mean, whatever the noise. Differences are "
        "of runs paired by seed, with 95 % t-intervals that are not corrected for the number of settings.",
        sections=[section],
        conditions=conditions,
    )


def headline(found: Sequence[Point], *, split: Split) -> str:
    """The best point, and whether it differs from the method as it is.

    Raises:
        ValueError: no point has been measured.
    """
    accuracy, best = max(((p.accuracy.mean, p) for p in found if p.accuracy is not None), key=lambda each: each[0])
    change = ""
    if best.difference:
        change = f", {differing(best.difference)} points over {best.base} as it is{_WORTH[best.difference.verdict]}"
    return f"Best {split} accuracy: {100 * accuracy:.2f} % with {best.method}{change}."


_WORTH: Mapping[Verdict, str] = {
    "higher": "",
    "lower": "",
    "noise": ", which is within the noise",
    "unknown": ", which so few runs cannot tell from noise",
}


def as_rows(found: Sequence[Point]) -> list[dict[str, Any]]:
    """Plain values for JSON and CSV; fractions, and the paper's numbers as printed, in per cent."""
    return [
        {
            "option": p.option,
            "value": p.value,
            "base": p.base,
            "method": p.method,
            "accuracy": None if p.accuracy is None else p.accuracy.mean,
            "std": None if p.accuracy is None or math.isnan(p.accuracy.std) else p.accuracy.std,
            "difference": p.difference and p.difference.mean,
            "difference_half_width_95": p.difference and p.difference.as_json()["half_width_95"],
            "seeds": 0 if p.accuracy is None else p.accuracy.n,
            "paper_percent": p.paper,
        }
        for p in found
    ]


def as_csv(found: Sequence[Point]) -> str:
    """One line for each point."""
    rows = as_rows(found)
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def _published(method: str, config: Config) -> float | None:
    """What the paper states of the method where data and network are its own."""
    number = published.find("accuracy", data=config.data, model=config.model, method=canonical(method))
    return None if number is None else number.value
