"""What the page shows of the training speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from statistics import fmean
from typing import Any

from .. import published
from ..methods import canonical
from ..reports.cells import NOTHING, Cell, Table, number_cell
from ..reports.notes import threads
from ..reports.section import Panel, Section
from ..reports.style import BASELINE_COLOR, figure, line, to_svg
from ..reports.tables import estimates_table
from .paper_numbers import measured_cell, published_cell, row_order
from .part import Results, said

__all__ = ["sections"]


def sections(results: Results, colors: Mapping[str, str]) -> list[Section]:
    """The table of all methods, the curve over n, and the paper's Table 3 beside what was measured."""
    return [_speeds(results, colors), *_over_n(results, colors), _beside_paper(results)]


def _speeds(results: Results, colors: Mapping[str, str]) -> Section:
    values, row_colors, failed = {}, {}, []
    for label, runs in results.items():
        for method in runs[0]["rows"]:
            rows = [run["rows"][method] for run in runs if method in run["rows"]]
            timed = [row for row in rows if row["images_per_second"] is not None]
            name = _name(label, method, runs)
            failed += [f"{name} could not be timed: {row['why_not']}." for row in rows if row not in timed][:1]
            values[name] = {
                "images/s ↑": [row["images_per_second"] for row in timed],
                "÷ ERM's ↑": [row["relative"] for row in timed],
                "ms per step ↓": [row["milliseconds"] for row in timed],
                "MiB per step ↓": [row["peak_mib"] for row in timed],
            }
            row_colors[name] = colors.get(label, "")
    network, batch, side, precision = (
        said(results, itemgetter(key)) for key in ("network", "batch", "image_size", "precision")
    )
    where = said(results, _where)
    when = said(results, lambda run: f"torch {run['machine']['torch']}, {run['machine']['date']}")
    return Section(
        "Training speed",
        f"Whole training steps (forward, loss, backward, optimiser) of {network} on one batch of {batch} images of "
        f"{side} pixels in precision {precision}, without reading them, on {where}; {when}. Each method takes turns "
        "with ERM in one process, so compare the speeds relative to ERM's; images per second taken at different times "
        f"do not compare. {_noise(results)}A method that chooses at random for every batch counts with its expected "
        f"time. The deviation over seeds is noise of the measurement. MiB are what a step allocates beyond weights and "
        f"images. {' '.join(failed)}",
        table=estimates_table(values, row_colors),
    )


def _name(label: str, method: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Of a method timed on the network of a label."""
    return label if method == runs[0]["own"] else f"{label}: {method}"


def _noise(results: Results) -> str:
    """How far the ratios can be trusted, in a sentence."""
    intervals = [
        (row["relative_low"], row["relative_high"], method == "erm")
        for runs in results.values()
        for run in runs
        for method, row in run["rows"].items()
        if row["relative_low"] is not None and row["relative_high"] is not None
    ]
    if not intervals:
        return ""
    low, high, _ = max(intervals, key=lambda interval: interval[1] / interval[0])
    text = (
        f"The least certain of these ratios is known to lie between {low:.2f} and {high:.2f} (95 %; under six rounds, "
        "the extremes)"
    )
    noise = [interval for interval in intervals if interval[2]]
    if noise:
        low, high, _ = max(noise, key=lambda interval: interval[1] / interval[0])
        text += f", that of a second copy of ERM, where it should be 1, between {low:.2f} and {high:.2f}"
    return f"{text}. "


def _where(run: Mapping[str, Any]) -> str:
    machine = run["machine"]
    return str(machine.get("gpu")) if run["device"] == "cuda" else f"{threads(machine['threads'])} of {machine['cpu']}"


def _over_n(results: Results, colors: Mapping[str, str]) -> list[Section]:
    curves = {
        label: {n: fmean(by_n[n] for by_n in points) for n in points[0] if all(n in by_n for by_n in points)}
        for label, runs in results.items()
        if (points := [dict(map(tuple, run["by_n"])) for run in runs]) and points[0]
    }
    if not curves:
        return []
    trained = {
        label: [run["rows"][run["own"]]["relative"] for run in runs if run["own"]] for label, runs in results.items()
    }
    own = {label: fmean(values) for label, values in trained.items() if values and None not in values}
    return [
        Section(
            "Training speed over n",
            "Speed relative to ERM's of every method as it trained, and with other numbers n of mixed examples, "
            "everything else the same. Means over seeds; the dashed line is ERM. Look at where a curve begins to fall: "
            "up to there, more mixed examples are free. Where half of the mini-batches take input mixup, those do not "
            "depend on n.",
            [
                Panel("as trained, ÷ ERM's", bars(own, colors)),
                Panel("over n, ÷ ERM's", speed_chart(curves, colors)),
            ],
            legend={label: colors[label] for label in curves},
        )
    ]


def bars(speeds: Mapping[str, float], colors: Mapping[str, str]) -> str:
    """One bar for the relative speed of each label."""
    with figure(4.2, 2.7) as (drawn, axes):
        axes.axvline(1, color=BASELINE_COLOR, linewidth=1, linestyle=(0, (4, 3)))
        axes.barh(list(speeds), list(speeds.values()), color=[colors[label] for label in speeds], height=0.6)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("speed ÷ ERM's")
        return to_svg(drawn, f"training speed relative to ERM of {', '.join(speeds)}")


def speed_chart(curves: Mapping[str, Mapping[int, float]], colors: Mapping[str, str]) -> str:
    """By label: the speed relative to ERM's for each n."""
    with figure(4.2, 2.7) as (drawn, axes):
        axes.axhline(1, color=BASELINE_COLOR, linewidth=1, linestyle=(0, (4, 3)))
        for label, curve in curves.items():
            axes.plot(list(curve), list(curve.values()), **line(colors[label]), markersize=4)
        axes.set_xscale("log")
        shown = sorted({n for curve in curves.values() for n in curve})
        # The labels of a logarithmic axis would be formulas, which these figures do not typeset.
        axes.set_xticks(shown, [f"{n:,}" for n in shown])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("n")
        return to_svg(drawn, f"training speed relative to ERM over n of {', '.join(curves)}")


def _beside_paper(results: Results) -> Section:
    paper = {(n.method, n.model): n for n in published.numbers() if n.quantity == "speed"}
    networks = list(dict.fromkeys(model for _, model in paper))
    here: dict[str, dict[str, list[float]]] = {}
    for label, runs in results.items():
        for run in runs:
            for method, row in run["rows"].items():
                if row["relative"] is not None:
                    here.setdefault(method, {}).setdefault(_name(label, method, runs), []).append(row["relative"])
    measured: dict[str, list[float]] = {}
    methods: dict[str, str] = {}
    for method, found in here.items():
        for name, speeds in found.items():
            name = method if len(found) == 1 else name
            measured[name], methods[name] = speeds, canonical(method)
    rows = []
    for name, method in row_order([method for method, _ in paper], methods):
        cells = [Cell(name, name), measured_cell(measured.get(name))]
        for network in networks:
            number, erm = paper.get((method, network)), paper["erm", network]
            ratio = None if number is None else number.value / erm.value
            cells += [published_cell(number), NOTHING if ratio is None else number_cell(ratio, digits=2)]
        rows.append(cells)
    units = ("1000 images/s", "÷ ERM's")
    titles = [f"paper, {network}\n{unit}" for network in networks for unit in units]
    here_network = said(results, itemgetter("network"))
    return Section(
        "Training speed beside the paper's",
        f"Measured here with {here_network}, see above. Published: Table 3, ImageNet, "
        f"{published.QUANTITIES['speed'].condition}; its relative speeds are computed from its rows. Networks, images "
        "and machines differ, so compare the order of the methods. “Not measured” means that nothing here was timed "
        "with it.",
        table=Table(["method", "measured here\n÷ ERM's", *titles], rows),
    )
