"""What the page shows of adversarial robustness."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..extras import require
from ..reports.cells import NOTHING, Cell, Table
from ..reports.section import Panel, Section
from ..reports.style import figure, line, to_svg
from ..reports.tables import estimates_table
from .batches import described
from .part import Results, first_result


def sections(results: Results, colors: Mapping[str, str]) -> list[Section]:
    """The errors with their curves, and whether the attacks are to be trusted."""
    return [_errors(results, colors), _trust(results)]


def _errors(results: Results, colors: Mapping[str, str]) -> Section:
    first = first_result(results)
    settings, n, curve_n = first["settings"], first["examples"], first["curve_examples"]
    of = described(n, first["test_examples"])
    chance = 100 * 1.96 * 0.5 / math.sqrt(n)
    start = "a random start" if settings["random_start"] else "the image itself as start"
    restarts = f" and {settings['restarts']} restarts" if settings["restarts"] > 1 else ""
    precision = ", in mixed precision" if settings["mixed_precision"] else ""
    panels = [
        ("PGD, error over eps", "pgd_by_eps", "eps, in 1/255"),
        ("FGSM, error over eps", "fgsm_by_eps", "eps, in 1/255"),
        (f"PGD {settings['pgd_eps']:g}/255, error over steps", "pgd_by_steps", "steps"),
    ]
    return Section(
        "Adversarial robustness",
        f"Share of misclassified images, in per cent, of {of}: mean and standard deviation over seeds, lower is more "
        f"robust, bold is the lowest. The choice of images alone moves a rate by up to {chance:.1f} points either way. "
        "The attacks know the model and change pixels in [0, 1] before its normalisation. FGSM takes one step; PGD "
        f"{settings['pgd_steps']} steps of {settings['pgd_step']:g}/255 in the l-infinity ball (l2: a fifth of the "
        f"radius), with {start}{restarts}{precision}. The curves are of {curve_n:,} images. Look at whether the order "
        "of methods holds along the curves. Errors near 100 % mean no robustness, whatever the differences; an "
        "advantage under FGSM that PGD takes away comes from the gradient, not the model.",
        [
            Panel(title, curves(_points(results, key), colors, xlabel=xlabel, description=title))
            for title, key, xlabel in panels
        ],
        layout="wide",
        legend=colors,
        table=_table(results, colors),
    )


def _table(results: Results, colors: Mapping[str, str]) -> Table:
    names = list(first_result(results)["error"])
    values = {
        label: {f"{name}\nerror, % ↓": [100 * run["error"][name] for run in runs] for name in names}
        for label, runs in results.items()
    }
    return estimates_table(values, colors)


def _trust(results: Results) -> Section:
    """A table of the checks by label, and the sentences of those that failed."""
    made: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for label, runs in results.items():
        for check in (check for run in runs for check in run["checks"]):
            made.setdefault((check["name"], label), []).append(check)
    failures = {
        place: sentences
        for place, checks in made.items()
        if (sentences := [check["sentence"] for check in checks if not check["passed"]])
    }
    names = list(dict.fromkeys(name for name, _ in made))
    rows = []
    for name in names:
        cells = []
        for label in results:
            failed, count = len(failures.get((name, label), ())), len(made.get((name, label), ()))
            verdict = "passed" if not failed else f"{failed} of {count} fail"
            cells.append(Cell(verdict, failed) if count else NOTHING)
        rows.append([Cell(name, name), *cells])
    if failures:
        verdict = "Warnings, one for each method and check: " + " ".join(
            f"{label}, {name}: {sentences[0]}" for (name, label), sentences in failures.items()
        )
    else:
        verdict = "Every check that was made passed, so nothing here speaks against the error rates above."
    first = first_result(results)
    harmless = "random noise does"
    if "transfer" in names:
        harmless = "random noise, and adversarial images of a small surrogate that was taught by the model, do"
    gaps = len(made) < len(names) * len(results)
    left_out = " –: not made, as no images were left to teach a surrogate." if gaps else ""
    return Section(
        "Can the attacks be trusted?",
        f"{verdict} The checks run PGD on {first['curve_examples']:,} test images: the model is in evaluation mode, "
        "returns logits and the same ones twice; gradients are not zero; eps = 0 changes nothing; the error rises with "
        f"eps and steps, and to nearly 100 % without a bound; {harmless} no more harm than the "
        "attack. Where one fails, a low error may come from gradients that lead nowhere instead of "
        f"robustness.{left_out}",
        table=Table(["check", *results], rows),
    )


Points = Mapping[str, Sequence[tuple[float, Sequence[float]]]]
"""By label: x, and the values of all seeds there."""


def _points(results: Results, key: str) -> Points:
    points = {}
    for label, runs in results.items():
        columns = zip(*(run[key] for run in runs), strict=True)
        points[label] = [(column[0][0], [100 * error for _, error in column]) for column in columns]
    return points


def curves(points: Points, colors: Mapping[str, str], *, xlabel: str, description: str) -> str:
    """One line for each label, its mean over seeds, with a band of one standard deviation. The x axis is linear to 1
    and logarithmic beyond."""
    ticker = require("matplotlib.ticker", "evaluate")
    with figure(3.1, 2.5) as (drawn, axes):
        for label, found in points.items():
            x = [at for at, _ in found]
            mean = [statistics.fmean(values) for _, values in found]
            axes.plot(x, mean, **line(colors[label]), markersize=2.8, clip_on=False)
            if all(len(values) > 1 for _, values in found):
                std = [statistics.stdev(values) for _, values in found]
                low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=colors[label], alpha=0.15, linewidth=0)
        ticks = [x for x, _ in next(iter(points.values()))]
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xlim(0, max(ticks))
        axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        highest = max(max(values) for found in points.values() for _, values in found)
        axes.set_ylim(0, min(100.0, max(10.0, 1.15 * highest)))
        axes.set_xlabel(xlabel)
        axes.set_ylabel("error, %")
        return to_svg(drawn, description)
