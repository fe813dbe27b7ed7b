"""What the page shows of corruption robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..reports.cells import Cell, Table, best_of, number_cell
from ..reports.section import Panel, Section
from ..reports.style import figure, to_svg
from ..reports.tables import estimates_table
from .batches import described
from .part import Legend, Results, first_result, said

Errors = Mapping[str, Sequence[float]]
"""By type: the error of each severity."""

DEEPEST = "#c44e2b"
"""One colour for all methods: different ones would not look equally deep."""

DATA_SETS = {"cifar": "CIFAR-10-C", "tinyimagenet": "Tiny-ImageNet-C", "imagenet": "ImageNet-C"}


def mean_corruption_error(errors: Errors, baseline: Errors) -> float:
    """mCE of Hendrycks and Dietterich: the error of each type, summed over severities, relative to the baseline's; the
    mean of these ratios over types. Every type needs some error of the baseline.

    >>> mean_corruption_error({"fog": [0.2, 0.2], "snow": [0.5, 0.5]}, {"fog": [0.4, 0.4], "snow": [0.5, 0.5]})
    0.75
    """
    return fmean(sum(errors[name]) / sum(baseline[name]) for name in errors)


def sections(results: Results, legend: Legend) -> list[Section]:
    """One table by label, one by type, and a heat map for each label."""
    first = first_result(results)
    of = described(first["examples"], first["test_examples"])
    references = _references(results, legend.baselines)
    constants = said(results, lambda run: DATA_SETS[run["constants"]])
    mce = (
        " The mCE divides the error of each type by that of ERM with the same settings before taking the mean, so that "
        "hard types do not outweigh the others; below 100 % is more robust than it."
        if references
        else ""
    )
    overview = Section(
        "Corruption robustness",
        f"Share of misclassified images, in per cent, of {of}, corrupted in {len(first['error'])} ways and five "
        "severities; mean and standard deviation over seeds, lower is better, bold is the lowest. The corruption error "
        f"is the mean over types and severities.{mce} Corruptions are made on the fly with the constants of "
        f"{constants}; they are not its published files, so compare within this page only.",
        table=_overview(results, references, legend.colors),
    )
    by_type = Section(
        "Error by type of corruption",
        "In per cent, mean over five severities and all seeds; bold is the lowest of a row. Look for types on which "
        "the order of the methods differs from that of their clean errors.",
        table=_by_type(results),
    )
    heat = Section(
        "Error by severity",
        "In per cent, mean over seeds; columns are severities 1 to 5, and a deeper colour is more error. Look for rows "
        "that are deep from the first severity on: the method has not learnt to ignore that change at all.",
        [Panel(label, heat_map(_means(runs), label=label)) for label, runs in results.items()],
        layout="wide",
    )
    return [overview, by_type, heat]


def _overview(results: Results, references: Mapping[str, Errors], colors: Mapping[str, str]) -> Table:
    values = {}
    for label, runs in results.items():
        values[label] = {
            "clean\nerror, % ↓": [100 * run["clean"] for run in runs],
            "corruption\nerror, % ↓": [100 * run["mean"] for run in runs],
        }
        if label in references:
            errors = references[label]
            values[label]["mCE, % ↓"] = [100 * mean_corruption_error(run["error"], errors) for run in runs]
    return estimates_table(values, colors)


def _references(results: Results, baselines: Mapping[str, str]) -> dict[str, Errors]:
    """By label, of ERM too, the errors of ERM that its own are divided by; not where one of these is zero."""
    erm_of = {**{erm: erm for erm in baselines.values()}, **baselines}
    found = {label: _means(results[erm_of[label]]) for label in results if erm_of.get(label) in results}
    return {label: errors for label, errors in found.items() if all(sum(values) for values in errors.values())}


def _by_type(results: Results) -> Table:
    means = {label: _means(runs) for label, runs in results.items()}
    rows = []
    for name in next(iter(means.values())):
        values = [100 * fmean(by[name]) for by in means.values()]
        best = best_of(values, digits=1, choose=min)
        cells = [number_cell(value, digits=1, top=round(value, 1) == best) for value in values]
        rows.append([Cell(_words(name), _words(name)), *cells])
    return Table(["corruption", *results], rows)


def heat_map(errors: Errors, *, label: str) -> str:
    """One row for each type, one column for each severity; the cell is deeper the larger the error, alike for all."""
    with figure(3.1, 0.4 + 0.2 * len(errors)) as (drawn, axes):
        for row, values in enumerate(errors.values()):
            for column, error in enumerate(values):
                axes.fill_between([column, column + 1], row, row + 1, color=DEEPEST, alpha=0.85 * error, linewidth=0)
                axes.text(column + 0.5, row + 0.5, f"{100 * error:.0f}", ha="center", va="center", fontsize=8)
        axes.set_xlim(0, len(next(iter(errors.values()))))
        axes.set_ylim(len(errors), 0)
        axes.set_yticks([row + 0.5 for row in range(len(errors))], [_words(name) for name in errors], fontsize=8)
        axes.set_xticks([column + 0.5 for column in range(5)], ["1", "2", "3", "4", "5"], fontsize=8)
        axes.set_xlabel("severity", fontsize=8)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return to_svg(drawn, f"error of {label} by type and severity of corruption")


def _means(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """By type: the error of each severity, mean over seeds."""
    return {
        name: [fmean(values) for values in zip(*(run["error"][name] for run in runs), strict=True)]
        for name in runs[0]["error"]
    }


def _words(name: str) -> str:
    return {"jpeg_compression": "JPEG", "elastic_transform": "elastic"}.get(name, name.replace("_", " "))
