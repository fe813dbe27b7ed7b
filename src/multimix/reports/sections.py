"""The figures of a page, section by section, each with a caption that says what to look for."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from .. import methods
from ..errors import one_line
from .charts import difference_chart, learning_curves, scatter_panel
from .hull import hull_panels
from .pictures import choose_sample, plot_embeddings, representatives
from .section import Panel, Section
from .style import CLASS_COLORS
from .summary import Summary


def make(summary: Summary, colors: Mapping[str, str]) -> list[Section]:
    """All sections that these runs allow, in the order of the page."""
    # The parts of an evaluation are made of the sections defined here.
    from ..suite import accuracy_page

    evaluations = functools.cache(lambda: _evaluate(summary))
    makers: dict[str, Callable[[], Section | None]] = {
        "Difference from ERM": lambda: _differences(summary, colors),
        "Learning curves": lambda: _curves(summary, colors),
        "Does confidence mean accuracy?": lambda: accuracy_page.reliability(evaluations(), colors),
        "What MultiMix samples": lambda: _hull(summary),
        "Where Dense MultiMix attends": lambda: _attention(summary),
        "Embedding space": lambda: _embeddings(summary),
        "Accuracy by class": lambda: accuracy_page.per_class(evaluations()),
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


def _evaluate(summary: Summary) -> dict[str, list[Mapping[str, Any]]]:
    """By label: every run on its test set, with the weights of the last epoch."""
    from ..suite.accuracy import Accuracy
    from ..suite.running import measure
    from ..suite.subjects import run_candidate

    found = {}
    for group in summary.groups:
        candidates = [run_candidate(run, group) for run in group.runs.values()]
        found[group.label] = [measure(candidate, Accuracy()) for candidate in candidates]
    return found


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


def _attention(summary: Summary) -> Section | None:
    from ..suite import attention_page
    from ..suite.attention import Attention
    from ..suite.running import measure
    from ..suite.subjects import run_candidate

    runs = [
        (group, run, dense)
        for group in summary.groups
        for run in group.runs.values()
        if (dense := _dense_method(run.config.method)) is not None
    ]
    if not runs:
        return None
    group, run, dense = next((each for each in runs if each[2].layer is None), runs[0])
    if dense.layer is not None:
        raise ValueError(
            f"attention maps are of the features of the last stage, but {run.config.method} attends to those of "
            f"stage {dense.layer}"
        )
    criterion = dense.criterion
    kind = "uniform" if criterion.attention == "uniform" else f"{criterion.attention}-{criterion.nonlinearity}"
    shown = measure(run_candidate(run, group), Attention(kinds=(kind,)))["pictures"]
    return Section(
        "Where Dense MultiMix attends",
        f"Test images and, beside each, the attention map by which its loss weights positions ({run.config.method}, "
        f"seed {run.config.seed}; upsampled from the features; the brightest position is the most trusted one). Look "
        "at whether the light falls on the object and not on the background. An arrow shows a wrong prediction.",
        [Panel("", attention_page.single(picture, kind)) for picture in shown],
        layout="small",
    )


def _dense_method(method: str) -> methods.DenseMultiMix | None:
    """The Dense MultiMix inside a method, if there is one."""
    parsed = methods.parse(method).modules()
    return next((module for module in parsed if isinstance(module, methods.DenseMultiMix)), None)


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
