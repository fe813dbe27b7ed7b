"""Charts of the numbers: differences from ERM, learning curves, histograms, reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..extras import require
from .statistics import Difference, Estimate
from .style import BASELINE_COLOR, CLASS_COLORS, INK, figure, line, to_svg
from .summary import Summary

FEWEST = 10
"""Fewer examples than this say too little about the accuracy of a bin."""


def difference_chart(
    differences: Mapping[str, Difference], colors: Mapping[str, str], *, xlabel: str, description: str
) -> str:
    """One line for each method: the mean difference from the baseline and its 95 % interval, in points."""
    with figure(5.2, 0.55 + 0.34 * len(differences)) as (drawn, axes):
        axes.axvline(0, color=BASELINE_COLOR, linewidth=1.4)
        for row, (label, difference) in enumerate(differences.items()):
            mean, half_width = 100 * difference.mean, 100 * difference.half_width
            if not math.isnan(half_width):
                ends = [mean - half_width, mean + half_width]
                axes.plot(ends, [row, row], color=colors[label], linewidth=2.4)
            axes.plot([mean], [row], "o", color=colors[label], markersize=6)
        axes.set_yticks(range(len(differences)), list(differences))
        axes.set_ylim(len(differences) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(xlabel)
        return to_svg(drawn, description)


def learning_curves(summary: Summary, key: str, colors: Mapping[str, str], *, percent: bool = False) -> str:
    """The metric `key` over epochs: the mean over seeds, and a band of one standard deviation."""
    np = require("numpy", "train")
    scale = 100 if percent else 1
    with figure(4.2, 2.7) as (drawn, axes):
        settled = []
        for group in summary.groups:
            runs = list(group.runs.values())
            measured = [{e["epoch"]: float(e[key]) for e in run.metrics if key in e} for run in runs]
            x = sorted(set.intersection(*map(set, measured)))
            curves = scale * np.array([[values[epoch] for epoch in x] for values in measured])
            mean = curves.mean(axis=0)
            every = 1 < len(x) == x[-1]
            axes.plot(x, mean, **line(colors[group.label]) | {"marker": "" if every else "."})
            if len(curves) > 1:
                std = curves.std(axis=0, ddof=1)
                axes.fill_between(x, mean - std, mean + std, color=colors[group.label], alpha=0.15, linewidth=0)
            settled.append(float(np.median(mean)))
        if percent:
            # The first epochs are far below; what matters is where the curves settle.
            floor, top = min(settled), min(100.0, axes.get_ylim()[1])
            axes.set_ylim(max(0.0, min(floor - 0.6 * (100 - floor), top - 1)), top)
        else:
            axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        return to_svg(drawn, f"{key.replace('_', ' ')} over epochs, one line for each method")


def dots_and_bars(axes: Any, found: Sequence[tuple[float, Estimate]], *, label: str, color: str, **style: Any) -> None:
    """The means of fractions, in per cent, at their places, with bars of one standard deviation where there is one."""
    axes.errorbar(
        [x for x, _ in found],
        [100 * value.mean for _, value in found],
        yerr=[0.0 if math.isnan(value.std) else 100 * value.std for _, value in found],
        label=label,
        elinewidth=1,
        **line(color) | style,
    )


def histogram_panel(
    filled: tuple[Sequence[float], Sequence[float]],
    outline: tuple[Sequence[float], Sequence[float]],
    color: str,
    *,
    xlabel: str,
    described: str,
) -> str:
    """Two histograms, each heights and edges, over each other: one filled, one as an outline."""
    with figure(2.7, 2.5) as (drawn, axes):
        axes.stairs(*filled, fill=True, color=color, alpha=0.55)
        axes.stairs(*outline, color=INK, linewidth=1.1)
        axes.set_xlim(filled[1][0], max(filled[1][-1], outline[1][-1]))
        axes.set_yticks([])
        axes.xaxis.get_major_locator().set_params(nbins=4)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(xlabel)
        return to_svg(drawn, described)


def reliability_panel(
    confidences: Sequence[float | None],
    accuracies: Sequence[float | None],
    counts: Sequence[float],
    color: str,
    *,
    label: str,
) -> str:
    """Accuracy against confidence, and the gap to the diagonal; the area of a dot is the share of the examples in
    its bin, and bins with fewer than `FEWEST` are left out."""
    total = sum(counts)
    with figure(2.7, 2.3) as (drawn, axes):
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.35, linewidth=0.8, linestyle=(0, (4, 3)))
        points = [
            (confidence, accuracy, count / total)
            for confidence, accuracy, count in zip(confidences, accuracies, counts, strict=True)
            if confidence is not None and accuracy is not None and count >= FEWEST
        ]
        x, y, share = zip(*points, strict=True) if points else ((), (), ())
        if not points:
            axes.text(0.96, 0.1, f"no bin has {FEWEST} images", ha="right", va="center", fontsize=8, gid="halo")
        axes.vlines(x, x, y, color=color, linewidth=1.2, alpha=0.6)
        axes.scatter(x, y, s=[14 + 150 * s for s in share], color=color, linewidths=0, clip_on=False, zorder=3)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        return to_svg(drawn, f"reliability diagram of {label}")


def scatter_panel(points: Any, classes: Sequence[int], names: Sequence[str], *, label: str) -> str:
    """A 2-D embedding plot (N, 2): one dot for each image, coloured by the position (N,) of its class in `names`, and
    these written at the medians of their classes where all are short."""
    np = require("numpy", "train")
    points, classes_N = np.asarray(points), np.asarray(classes)
    with figure(2.7, 2.5) as (drawn, axes):
        # A thin frame, or clusters at the edge would seem to be the next panel's.
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=INK, alpha=0.25)
        axes.set_aspect("equal", adjustable="datalim")
        for number, color in enumerate(CLASS_COLORS[: len(names)]):
            members = points[classes_N == number]
            axes.plot(members[:, 0], members[:, 1], "o", color=color, markersize=2.6, alpha=0.8, markeredgewidth=0)
        for number, name in enumerate(names if all(len(name) <= 3 for name in names) else ()):
            x, y = np.median(points[classes_N == number], axis=0)
            axes.text(x, y, name, ha="center", va="center", fontsize=9, fontweight="bold", gid="halo")
        return to_svg(drawn, f"embeddings of {label}")
