"""What the page shows of accuracy and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..extras import require
from ..reports.cells import Cell, Table, number_cell
from ..reports.charts import FEWEST, reliability_panel
from ..reports.section import Panel, Section
from ..reports.style import INK, figure, to_svg
from ..reports.tables import estimates_table, per_class_table
from .part import Results, first_result

__all__ = ["per_class", "reliability", "sections"]

HEAT_MAP_CLASSES = 20
"""With more classes, a table of the most confused ones says more than a matrix."""
PAIRS = 40
LONG = 15
"""Tables with more rows are folded."""


def sections(results: Results, colors: Mapping[str, str]) -> list[Section]:
    """The numbers, the reliability diagrams, every class, and which classes are confused."""
    return [_numbers(results, colors), reliability(results, colors), per_class(results), _confusion(results)]


def _numbers(results: Results, colors: Mapping[str, str]) -> Section:
    columns = {
        "accuracy": ("top-1, % ↑", 100),
        "top5": ("top-5, % ↑", 100),
        "nll": ("NLL ↓", 1),
        "ece": ("ECE, % ↓", 100),
        "adaptive_ece": ("adaptive\nECE, % ↓", 100),
        "classwise_ece": ("class-wise\nECE, % ↓", 100),
        "confidence": ("mean con-\nfidence, %", 100),
    }
    values = {
        label: {
            title: [factor * run[key] for run in runs]
            for key, (title, factor) in columns.items()
            if all(run[key] is not None for run in runs)
        }
        for label, runs in results.items()
    }
    return Section(
        "Accuracy and calibration",
        f"Of all {first_result(results)['examples']:,} test images: mean ± standard deviation over seeds. NLL is the "
        "negative log-likelihood in nats. ECE is the expected calibration error, the mean gap between confidence "
        "and accuracy in bins of equal width; the adaptive one has bins of equal size, which is fairer where most "
        "predictions are confident; the class-wise one looks at the probability of every class, not only of the "
        "predicted one. A mean confidence below the accuracy means under-confidence.",
        table=estimates_table(values, colors),
    )


def reliability(results: Results, colors: Mapping[str, str]) -> Section:
    """A reliability diagram for every label, of all its seeds together."""
    panels = []
    for label, runs in results.items():
        svg = reliability_panel(*_pooled([run["reliability"] for run in runs]), color=colors[label], label=label)
        error = 100 * sum(run["ece"] for run in runs) / len(runs)
        panels.append(Panel(label, svg, f"calibration error {error:.1f} %"))
    bins = len(first_result(results)["reliability"]["counts"])
    return Section(
        "Does confidence mean accuracy?",
        f"Test images of all seeds, sorted by the confidence of their prediction into {bins} bins; a larger dot is "
        f"more images, and bins with fewer than {FEWEST} are left out. On "
        "the dashed line a confidence of 80 % is right in 80 % of the cases. Dots above it are "
        "under-confident, which is usual for methods that train on mixed targets; dots below it are over-confident.",
        panels,
        layout="small",
    )


def per_class(results: Results) -> Section:
    """The accuracy of every class, or of those in which the labels differ most."""
    names = first_result(results)["class_names"]
    accuracies = {
        label: {name: [run["per_class_accuracy"][k] for run in runs] for k, name in enumerate(names)}
        for label, runs in results.items()
    }
    table = per_class_table(list(results), accuracies)
    shown = "" if len(table.rows) == len(names) else f" The {len(table.rows)} classes in which the methods differ most."
    return Section(
        "Accuracy by class",
        f"Test accuracy of every class, in per cent, mean over seeds; bold is the best of a "
        f"row.{shown} Few test images a class make large differences by chance.",
        table=table,
        folded=len(table.rows) > LONG,
    )


def _confusion(results: Results) -> Section:
    names = first_result(results)["class_names"]
    shares = {label: _shares(runs) for label, runs in results.items()}
    if len(names) <= HEAT_MAP_CLASSES:
        highest = max((share for of_label in shares.values() for share in of_label.values()), default=0.0)
        return Section(
            "Which classes are confused?",
            "Rows are the true classes, columns the predicted ones: the share of a class's test images, over all "
            "seeds, that is taken for another class, in per cent where it is at least 1 %. The diagonal, what is "
            f"right, is left out. The strongest cell of all is {100 * highest:.1f} %. Look for pairs that every method "
            "confuses (the classes are alike, or labels wrong), and for those that only one does.",
            [Panel(label, confusion_panel(shares[label], names, highest, label=label)) for label in results],
            layout="small" if len(names) <= 10 else "pair",
        )
    pairs = {pair for of_label in shares.values() for pair in of_label}
    mean = {pair: sum(of_label.get(pair, 0.0) for of_label in shares.values()) / len(shares) for pair in pairs}
    worst = sorted(pairs, key=lambda pair: (-mean[pair], pair))[:PAIRS]
    rows = []
    for i, j in worst:
        values = [100 * of_label.get((i, j), 0.0) for of_label in shares.values()]
        pair = f"{names[i]} → {names[j]}"
        rows.append([Cell(pair, pair), *(number_cell(value, digits=1) for value in values)])
    return Section(
        "Which classes are confused?",
        f"The {len(rows)} most frequent confusions, true class → predicted class: the share of the class's test "
        "images, in per cent, over all seeds. Pairs that every method confuses are alike, or labelled doubtfully.",
        table=Table(["true → predicted, %", *results], rows),
        folded=len(rows) > LONG,
    )


def _shares(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], float]:
    """By (class, other class): the share of the class's examples, over all runs, that is taken for the other."""
    totals: dict[int, int] = {}
    wrong: dict[tuple[int, int], int] = {}
    for run in runs:
        for i, j, count in run["confusion"]:
            totals[i] = totals.get(i, 0) + count
            if i != j:
                wrong[i, j] = wrong.get((i, j), 0) + count
    return {pair: count / totals[pair[0]] for pair, count in wrong.items()}


def confusion_panel(
    shares: Mapping[tuple[int, int], float], names: Sequence[str], highest: float, *, label: str
) -> str:
    """A heat map of the errors: the more of a class's images go astray, the darker; `highest` is fully dark."""
    np = require("numpy", "train")
    c = len(names)
    # One colour whose opacity is the share, so that it lies on light and on dark paper.
    pixels = np.zeros((c, c, 4))
    pixels[..., :3] = np.array([0.84, 0.37, 0.0])
    for (i, j), share in shares.items():
        pixels[i, j, 3] = share / highest
    with figure(2.9, 2.9) as (drawn, axes):
        axes.imshow(pixels, interpolation="none")
        axes.grid(visible=False)
        axes.plot([-0.5, c - 0.5], [-0.5, c - 0.5], color=INK, alpha=0.25, linewidth=0.7)
        if c <= 10:
            for (i, j), share in shares.items():
                if share >= 0.01:
                    axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5)
        short = [name if len(name) <= 10 else name[:9] + "…" for name in names]
        upright = max(map(len, short)) <= 2
        axes.set_xticks(range(c), short, rotation=0 if upright else 90, fontsize=7)
        axes.set_yticks(range(c), short, fontsize=7)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return to_svg(drawn, f"confusion of classes by {label}")


def _pooled(
    diagrams: Sequence[Mapping[str, Sequence[Any]]],
) -> tuple[list[float | None], list[float | None], list[float]]:
    """Confidences, accuracies and counts of the bins over several runs."""
    counts = [sum(bins) for bins in zip(*(diagram["counts"] for diagram in diagrams), strict=True)]

    def mean(name: str) -> list[float | None]:
        sums = [0.0] * len(counts)
        for diagram in diagrams:
            for k, (value, count) in enumerate(zip(diagram[name], diagram["counts"], strict=True)):
                sums[k] += (value or 0.0) * count
        return [total / count if count else None for total, count in zip(sums, counts, strict=True)]

    return mean("confidences"), mean("accuracies"), counts
