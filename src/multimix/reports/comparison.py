"""The page of a comparison: its numbers, what they justify saying, and its figures."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import one_line
from ..files import write_json, write_text
from . import notes
from .charts import difference_chart, learning_curves, scatter_panel
from .headline import headline
from .hull import hull_panels
from .page import fill, now
from .pictures import choose_sample, plot_embeddings, representatives
from .section import Panel, Section
from .style import CLASS_COLORS, method_colors, only_baseline
from .summary import Summary
from .tables import results_csv, results_table


def write_page(summary: Summary, out: Path) -> None:
    """Write `report.html`, `summary.json` and `results.csv` into the folder `out`.

    What cannot be made, because the data or some of the runs are not there, is left out and named on the page.

    Raises:
        OSError: a file cannot be written.
        ImportError: matplotlib or Jinja2 is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "summary.json", as_json(summary))
    write_text(out / "results.csv", results_csv(summary))
    write_text(out / "report.html", render(summary))


def render(summary: Summary) -> str:
    """The page as a string."""
    colors = method_colors([row.label for row in summary.rows], only_baseline(summary.baselines))
    return fill(
        title=notes.title(summary),
        kicker=notes.kicker(summary),
        headline=headline(summary),
        headline_note=notes.headline(summary),
        missing=summary.missing,
        results=results_table(summary, colors),
        results_note=notes.results(summary),
        sections=sections(summary, colors),
        conditions=notes.conditions(summary, made=now()),
    )


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as plain values for `summary.json`; fractions, NaN as null."""
    rows = []
    for row in summary.rows:
        value = asdict(row)
        for key in ("last_accuracy", "best_accuracy", "ece", "nll"):
            value[key] = getattr(row, key).as_json()
        for key in ("accuracy_difference", "ece_difference", "nll_difference"):
            difference = getattr(row, key)
            if difference is not None:
                value[key] = difference.as_json()
        rows.append(value)
    return {
        "headline": headline(summary),
        "baselines": list(summary.baselines),
        "methods": rows,
        "missing": list(summary.missing),
        "conditions": notes.conditions(summary),
    }


def sections(summary: Summary, colors: Mapping[str, str]) -> list[Section]:
    """All sections that these runs allow, in the order of the page, each with a caption that says what to look for."""
    # The parts of an evaluation are drawn with what stands beside this module.
    from ..suite import accuracy_page, compared

    accuracies = functools.cache(lambda: compared.accuracies(summary.groups))
    makers: dict[str, Callable[[], Section | None]] = {
        "Difference from ERM": lambda: _differences(summary, colors),
        "Learning curves": lambda: _curves(summary, colors),
        "Does confidence mean accuracy?": lambda: accuracy_page.reliability(accuracies(), colors),
        "What MultiMix samples": lambda: _hull(summary),
        "Where Dense MultiMix attends": lambda: compared.attention(summary.groups),
        "Embedding space": lambda: _embeddings(summary),
        "Accuracy by class": lambda: accuracy_page.per_class(accuracies()),
    }
    made = []
    for title, maker in makers.items():
        try:
            section = maker()
        except Exception as error:  # the rest of the page does not suffer from it
            section = Section(title, "", left_out=textwrap.shorten(one_line(error), 300, placeholder=" ..."))
        if section is not None:
            made.append(section)
    return made


def _differences(summary: Summary, colors: Mapping[str, str]) -> Section | None:
    charts = (
        ("Test accuracy, last epoch", "accuracy_difference", "points; right is better than ERM"),
        ("Calibration error, last epoch", "ece_difference", "points; left is better than ERM"),
    )
    panels = []
    for title, key, xlabel in charts:
        differences = {row.label: getattr(row, key) for row in summary.rows if getattr(row, key) is not None}
        if differences:
            svg = difference_chart(differences, colors, xlabel=xlabel, description=f"{title}: difference from ERM")
            panels.append(Panel(title, svg))
    if not panels:
        return None
    return Section(
        "Difference from ERM",
        "Mean of the differences between runs with the same seed and the same settings, and its 95 % t-interval. An "
        "interval that crosses the line means that these runs do not show a difference, not that there is none.",
        panels,
    )


def _curves(summary: Summary, colors: Mapping[str, str]) -> Section:
    return Section(
        "Learning curves",
        "Mean over seeds; the band is one standard deviation. Look at whether a curve has settled: one that still "
        "climbs at the end would gain from more epochs. Training losses are on mixed targets for every method but "
        "ERM, and on different ones for each, so their heights do not compare.",
        [
            Panel("Test accuracy, %", learning_curves(summary, "test_accuracy", colors, percent=True)),
            Panel("Training loss", learning_curves(summary, "train_loss", colors)),
        ],
        legend=colors,
    )


def _hull(summary: Summary) -> Section:
    sizes = sorted({run.config.batch_size for run in summary.runs})
    batches, spread = " / ".join(map(str, sizes)), " / ".join(f"{(b + 1) / 2:.0f}" for b in sizes)
    return Section(
        "What MultiMix samples",
        "A mini-batch of b = 10 points in the plane and the points sampled from it (orange), as in the paper's "
        "Figure 1, drawn by the sampler that training uses. The more examples are mixed, the nearer a mixture comes to "
        f"the centre: in the batches of {batches} used here, α = 1 spreads a mixture over about {spread} examples. "
        "Mixtures that all resemble the mean say little about any one class, which slows learning when the schedule is "
        "short.",
        hull_panels(),
        layout="wide",
    )


def _embeddings(summary: Summary) -> Section:
    runs = representatives(summary.groups)
    sample = choose_sample(next(iter(runs.values())))
    panels = []
    for label, run in runs.items():
        plot = plot_embeddings(run, sample)
        svg = scatter_panel(plot.points, sample.classes, sample.names, label=label)
        panels.append(
            Panel(label, svg, f"alignment {plot.alignment:.2f}, uniformity {plot.uniformity:.2f}".replace("-", "−"))
        )
    seeds = " / ".join(dict.fromkeys(str(run.config.seed) for run in runs.values()))
    return Section(
        "Embedding space",
        f"The same {len(sample.classes)} test images for every method (seed {seeds}), by t-SNE, which keeps neighbours "
        "together but not distances or the size of clusters. Look for images inside a cluster of another class. "
        "Alignment (lower: classes are tighter) and uniformity (lower: the space is used more evenly) are of the "
        "normalised embeddings themselves.",
        panels,
        layout="small",
        legend=dict(zip(sample.names, CLASS_COLORS, strict=False)),
    )
