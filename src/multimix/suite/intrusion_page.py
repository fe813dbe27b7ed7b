"""What the page shows of manifold intrusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..reports.charts import histogram_panel
from ..reports.section import Panel, Section
from ..reports.tables import estimates_table
from .part import Results, first_result, said


def sections(results: Results, colors: Mapping[str, str]) -> list[Section]:
    """A table of all mixings, and the histograms of every label's own ones."""
    first = first_result(results)
    clean = next(iter(first["mixings"]))
    mixed = said(results, lambda run: f"{run['mixed']:,}")
    bank = said(results, lambda run: f"{run['bank']:,} {run['source']}")
    rows, row_colors, panels = {}, {}, []
    for label, runs in results.items():
        for name in runs[0]["mixings"]:
            row = f"{label}: {name}"
            rows[row] = {
                "normalised": [run["mixings"][name]["normalized"]["mean"] for run in runs],
                "normalised,\n÷ clean": _ratios(runs, name, clean, "normalized"),
                "raw": [run["mixings"][name]["raw"]["mean"] for run in runs],
                "raw,\n÷ clean": _ratios(runs, name, clean, "raw"),
            }
            row_colors[row] = colors.get(label, "")
        for name in runs[0]["own"]:
            measured = runs[0]["mixings"]
            svg = histogram_panel(
                _density(measured[name]["normalized"]),
                _density(measured[clean]["normalized"]),
                colors[label],
                xlabel="squared distance",
                described=f"intrusion distances of {label}, {name}",
            )
            panels.append(Panel(f"{label}: {name}", svg))
    without = [label for label, runs in results.items() if not runs[0]["own"]]
    no_mixing = (
        f" Mixing none of what it could be asked for, {', '.join(without)} has clean images alone." if without else ""
    )
    touching = [
        label
        for label, runs in results.items()
        if any(len(_ratios(runs, clean, clean, space)) < len(runs) for space in ("normalized", "raw"))
    ]
    no_measure = (
        f" Of {', '.join(touching)}, the clean images have embeddings equal to those of other classes: the mean "
        "distance is 0, and nothing is divided by it."
        if touching
        else ""
    )
    made = [
        Section(
            "Manifold intrusion",
            f"Mean squared distance of mixed embeddings of {mixed} images to the nearest clean embedding of "
            "a class that is not mixed in them, with and without projection on the unit sphere, against a bank of "
            f"{bank} images. A class counts as mixed when its weight is above "
            f"{first['threshold']:.3g}. "
            "Larger is better: mixed embeddings stay away from other classes. Clean images are the measure: where a "
            "mixing is below 1 beside them, it is nearer to other classes than real images are."
            f"{no_mixing}{no_measure}",
            table=estimates_table(rows, row_colors, first="method and mixing"),
        )
    ]
    if panels:
        made.append(
            Section(
                "Distances of mixed embeddings",
                "Squared distances on the unit sphere, one seed each: those of mixed embeddings filled in colour, of "
                "clean images as a line; the last bin holds all larger. Look at the mass near 0, which is intrusion.",
                panels,
                layout="small",
            )
        )
    return made


def _ratios(runs: Sequence[Mapping[str, Any]], name: str, clean: str, space: str) -> list[float]:
    """Of a mixing's mean distance to that of clean images, where that is not 0, as with equal embeddings."""
    pairs = [[run["mixings"][each][space]["mean"] for each in (name, clean)] for run in runs]
    return [mixed / of_clean for mixed, of_clean in pairs if of_clean]


def _density(found: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Heights and edges of the histogram of distances."""
    bins, width = len(found["shares"]), found["high"] / len(found["shares"])
    return [share / width for share in found["shares"]], [width * k for k in range(bins + 1)]
