"""What the page shows of out-of-distribution detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..reports.cells import Table
from ..reports.charts import histogram_panel
from ..reports.section import Panel, Section
from ..reports.style import INK, figure, line, to_svg
from ..reports.tables import estimates_table
from .part import Results, first_result

TITLES = {
    "auroc": "AuROC, % ↑",
    "aupr_in": "AuPR in, % ↑",
    "aupr_out": "AuPR out, % ↑",
    "fpr95": "FPR at 95 %\nTPR, % ↓",
    "detection_accuracy": "detection\naccuracy, % ↑",
}


def sections(results: Results, colors: Mapping[str, str]) -> list[Section]:
    """The mean over sets, the detectors beside each other, and each set with its ROC curves and histograms."""
    first = first_result(results)
    sets, detectors = list(first["sets"]), list(first["mean"])
    made = [
        Section(
            "Out-of-distribution detection",
            f"How well the {detectors[0]} score tells the {first['test_images']:,} test images from images of another "
            f"kind, mean over {', '.join(sets)}; mean and standard deviation over seeds. AuROC is the chance that a "
            "test image scores higher than one of the other set: 50 % is guessing. FPR is the share of the other "
            "images that pass when 95 % of the test images do. AuPR also depends on how many images the sets have. A "
            "classifier that is worse at its own classes tends to be worse here too; compare with the accuracies.",
            table=_table(
                {label: [run["mean"][detectors[0]] for run in runs] for label, runs in results.items()}, colors
            ),
        )
    ]
    if len(detectors) > 1:
        values = {
            label: {f"{name} ↑": [100 * run["mean"][name]["auroc"] for run in runs] for name in detectors}
            for label, runs in results.items()
        }
        made.append(
            Section(
                "Which detector?",
                f"AuROC in per cent of every detector, mean over {', '.join(sets)}. The best one may differ by method: "
                "methods that train on mixed targets change confidences, on which max-softmax and entropy rest.",
                table=estimates_table(values, colors),
            )
        )
    return made + [_set_section(name, detectors[0], results, colors) for name in sets]


def _set_section(name: str, detector: str, results: Results, colors: Mapping[str, str]) -> Section:
    images = first_result(results)["sets"][name]["images"]
    panels = [
        Panel("ROC curves", roc_chart({k: [r["sets"][name]["roc"] for r in v] for k, v in results.items()}, colors))
    ]
    panels += [
        Panel(label, _histogram(runs[0]["sets"][name]["histogram"], colors[label], label=label, xlabel=detector))
        for label, runs in results.items()
    ]
    return Section(
        f"Test images against {name}",
        f"{images:,} images; ROC curves are means over seeds, in the colours of the methods: the nearer to the upper "
        f"left corner, the better. Histograms of the {detector} score, one seed each: test images filled in colour, "
        f"{name} as a line. Look at where they overlap, and for a line that lies to the right, at images that the "
        "classifier is surer of than of its own.",
        panels,
        layout="small",
        legend=colors,
        table=_table({k: [r["sets"][name]["metrics"][detector] for r in v] for k, v in results.items()}, colors),
    )


def _table(metrics: Mapping[str, Sequence[Mapping[str, float]]], colors: Mapping[str, str]) -> Table:
    values = {
        label: {title: [100 * run[key] for run in runs] for key, title in TITLES.items()}
        for label, runs in metrics.items()
    }
    return estimates_table(values, colors)


def roc_chart(curves: Mapping[str, Sequence[Sequence[float]]], colors: Mapping[str, str]) -> str:
    """One ROC curve for each label, the mean over its seeds of TPR at evenly spaced FPR."""
    with figure(2.7, 2.5) as (drawn, axes):
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.35, linewidth=0.8, linestyle=(0, (4, 3)))
        for label, seeds in curves.items():
            mean = [fmean(values) for values in zip(*seeds, strict=True)]
            axes.plot(
                [k / (len(mean) - 1) for k in range(len(mean))],
                mean,
                **line(colors[label]) | {"marker": ""},
                linewidth=1.3,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.01)
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_xlabel("FPR")
        axes.set_ylabel("TPR")
        return to_svg(drawn, f"ROC curves of {', '.join(curves)}")


def _histogram(found: Mapping[str, Any], color: str, *, label: str, xlabel: str) -> str:
    """Scores of the test images, filled, and of the other images, as a line."""
    low, high, bins = found["low"], found["high"], len(found["inside"])
    edges = [low + (high - low) * k / bins for k in range(bins + 1)]
    described = f"scores of test images and others under {label}"
    return histogram_panel(
        (found["inside"], edges), (found["outside"], edges), color, xlabel=xlabel, described=described
    )
