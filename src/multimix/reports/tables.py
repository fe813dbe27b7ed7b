"""Tables: the same rows for the page, the terminal and the CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from .cells import NOTHING, Cell, Table, best_of, difference_cell, number_cell, percent_cell
from .statistics import Estimate, estimate
from .summary import Row, Summary


def results_table(summary: Summary, colors: Mapping[str, str] | None = None) -> Table:
    """Mean and standard deviation over seeds of everything measured, one row for each method."""
    columns = ["method", "accuracy, %\nlast epoch", "accuracy, %\nbest epoch"]
    if summary.baselines:
        columns.append("over ERM,\npoints")
    columns += ["calibration\nerror, %", "neg. log-\nlikelihood"]
    uneven = len({len(row.seeds) for row in summary.rows}) > 1
    if uneven:
        columns.append("seeds")
    measured = any(row.speed for row in summary.rows)
    if measured:
        columns.append("training\nimages/s")
        if summary.baselines:
            columns.append("speed ÷\nERM's")
    best = {
        "last": best_of([row.last_accuracy.mean for row in summary.rows], digits=4),
        "best": best_of([row.best_accuracy.mean for row in summary.rows], digits=4),
        "ece": best_of([row.ece.mean for row in summary.rows], digits=4, choose=min),
        "nll": best_of([row.nll.mean for row in summary.rows], digits=3, choose=min),
    }
    rows = []
    for row in summary.rows:
        cells = [
            Cell(row.label, row.label, color=(colors or {}).get(row.label, "")),
            percent_cell(row.last_accuracy, best["last"]),
            percent_cell(row.best_accuracy, best["best"]),
        ]
        if summary.baselines:
            cells.append(difference_cell(row.accuracy_difference))
        likelihood = number_cell(row.nll.mean, row.nll.std, digits=3, top=round(row.nll.mean, 3) == best["nll"])
        cells += [percent_cell(row.ece, best["ece"]), likelihood]
        if uneven:
            cells.append(Cell(str(len(row.seeds)), len(row.seeds)))
        if measured:
            cells += _speed(row)[: len(columns) - len(cells)]
        rows.append(cells)
    return Table(columns, rows)


def estimates_table(
    values: Mapping[str, Mapping[str, Sequence[float]]], colors: Mapping[str, str], *, first: str = "method"
) -> Table:
    """Mean and standard deviation over seeds: a row for each label, a column for each title.

    Args:
        values: by label, then by title: the value of each seed. A title that ends in ↑ or ↓ says whether higher or
            lower is better, and then the best mean of the column is marked. A label may lack titles.
        colors: by label.
        first: title of the first column.

    >>> table = estimates_table({"erm": {"NLL ↓": [1.0, 3.0]}, "cutmix": {"NLL ↓": [1.5]}}, {})
    >>> [(row[1].text, row[1].spread, row[1].top) for row in table.rows]
    [('2.000', '± 1.414', False), ('1.500', '', True)]
    """
    titles = list(dict.fromkeys(title for row in values.values() for title in row))
    rows = [[Cell(label, label, color=colors.get(label, ""))] for label in values]
    for title in titles:
        found = [estimate(row[title]) if row.get(title) else None for row in values.values()]
        digits = 2 if "%" in title else _digits([value.mean for value in found if value is not None])
        best = None
        if title.endswith(("↑", "↓")):
            means = [None if value is None else value.mean for value in found]
            best = best_of(means, digits=digits, choose=max if title.endswith("↑") else min)
        for cells, value in zip(rows, found, strict=True):
            cells.append(_estimated(value, digits, best))
    return Table([first, *titles], rows)


def _digits(values: Sequence[float]) -> int:
    """Decimals that show about four digits of the largest."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=1.0)
    return 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0


def _estimated(value: Estimate | None, digits: int, best: float | None) -> Cell:
    if value is None or math.isnan(value.mean):
        return NOTHING
    return number_cell(value.mean, value.std, digits=digits, top=best is not None and round(value.mean, digits) == best)


def per_class_table(
    labels: Sequence[str], accuracies: Mapping[str, Mapping[str, Sequence[float | None]]], *, limit: int = 100
) -> Table:
    """Accuracy of every class, one column for each of `labels`.

    Args:
        labels: the columns.
        accuracies: by label, then by class name: the accuracy of each run, None without test examples.
        limit: keep the classes in which the methods differ most, when there are more.
    """
    names = list(accuracies[labels[0]])
    rows = []
    for name in names:
        means = []
        for label in labels:
            values = [value for value in accuracies[label][name] if value is not None]
            means.append(math.fsum(values) / len(values) if values else None)
        rows.append((name, means))
    if len(rows) > limit:
        rows = sorted(rows, key=lambda row: -_range(row[1]))[:limit]
    table = []
    for name, means in rows:
        top = best_of(means, digits=4)
        cells = [
            Cell(
                "" if m is None else f"{100 * m:.1f}",
                "" if m is None else 100 * m,
                top=m is not None and round(m, 4) == top,
            )
            for m in means
        ]
        table.append([Cell(name, float(name) if name.isdecimal() else name), *cells])
    return Table(["class", *labels], table)


def results_csv(summary: Summary) -> str:
    """One line for each run, for further analysis: accuracies and errors are fractions."""
    rows = [
        [group.label, group.method, seed, run.last["test_accuracy"], run.best["test_accuracy"], run.best["epoch"],
         run.last["test_ece"], run.last["test_loss"], run.last["epoch"], round(run.seconds, 3), run.path]
        for group in summary.groups
        for seed, run in group.runs.items()
    ]  # fmt: skip
    return csv_text(
        ["label", "method", "seed", "test_accuracy_last", "test_accuracy_best", "best_epoch", "test_ece_last",
         "test_nll_last", "epochs", "seconds", "run"],
        rows,
    )  # fmt: skip


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV.

    >>> csv_text(["method", "seed"], [["multimix(n=5, m=2)", 0]])
    'method,seed\\n"multimix(n=5, m=2)",0\\n'
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def _speed(row: Row) -> list[Cell]:
    if row.speed is None:
        return [NOTHING, NOTHING]
    return [
        Cell(f"{row.speed.images_per_second:,.0f}", row.speed.images_per_second),
        Cell(f"{row.speed.relative:.2f}×", row.speed.relative),
    ]


def _range(means: Sequence[float | None]) -> float:
    known = [mean for mean in means if mean is not None]
    return max(known) - min(known) if known else 0.0
