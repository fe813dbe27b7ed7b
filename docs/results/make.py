"""Draw the figures of the results document from the metrics kept here: `python docs/results/make.py`.

Learning curves; of many methods smoothed, beside the difference from ERM in the end; of more methods than lines stay
apart, the difference alone.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multimix.reports.style import BASELINE_COLOR, figure, line, method_colors, standalone, to_svg

HERE = Path(__file__).parent
FEW, MOST_CURVES = 6, 11
SMOOTHED = 20
"""A point of a smoothed curve is the mean of this fraction of the epochs."""

FAR = -20
"""Points behind ERM from which on a run is named at the edge instead of stretching the figure."""

Runs = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
"""By method, then by seed: the epochs."""


def main() -> None:
    folders = {folder.name: read(folder) for folder in sorted({file.parent for file in HERE.glob("*/conditions.json")})}
    # A method has one colour in all figures; those that most figures have come first, where colours differ most.
    often = Counter(name for runs in folders.values() for name in runs)
    colors = method_colors(sorted(often, key=lambda name: (-often[name], name)), "erm")
    for name, runs in folders.items():
        draw = curves if len(runs) <= FEW else curves_and_dots if len(runs) <= MOST_CURVES else dots
        (HERE / f"{name}.svg").write_text(standalone(draw(name, runs, colors)))


def read(folder: Path) -> Runs:
    """Every run, ERM first."""
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {}
    files = sorted(folder.glob("*-seed*.jsonl"), key=lambda file: (not file.name.startswith("erm-"), file.name))
    for file in files:
        epochs = [json.loads(line) for line in file.read_text().splitlines()]
        method, _, seed = file.stem.rpartition("-seed")
        runs.setdefault(method, {})[int(seed)] = epochs
    return runs


def series(runs: Mapping[int, Sequence[Mapping[str, Any]]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs that have a value, and the values, a row for each seed."""
    epochs = [epoch["epoch"] for epoch in next(iter(runs.values())) if key in epoch]
    return np.array(epochs), np.array([[epoch[key] for epoch in run if key in epoch] for run in runs.values()])


def curves(folder: str, runs: Runs, colors: Mapping[str, str]) -> str:
    with figure(9, 3.2, ncols=2) as (drawn, (accuracy, loss)):
        for method, by_seed in runs.items():
            for axes, key, scale in ((accuracy, "test_accuracy", 100), (loss, "train_loss", 1)):
                epochs, found = series(by_seed, key)
                found = scale * found
                mean = found.mean(0)
                axes.plot(epochs, mean, label=method, **line(colors[method]) | {"marker": ""})
                if len(found) > 1:
                    std = found.std(0, ddof=1)
                    axes.fill_between(epochs, mean - std, mean + std, color=colors[method], alpha=0.15, linewidth=0)
        accuracy.set(xlabel="epoch", title="test accuracy, %")
        loss.set(xlabel="epoch", title="training loss, each method its own", ylim=(0, None))
        for axes in (accuracy, loss):
            axes.xaxis.get_major_locator().set_params(integer=True)
        # What diverged is far above; the figure is about the others.
        starts = [line.get_ydata()[0] for line in loss.lines]
        loss.set_ylim(0, min(loss.get_ylim()[1], 2.5 * float(np.median(starts))))
        accuracy.legend(frameon=False)
        return to_svg(drawn, f"learning curves on {folder}: mean over seeds, band of one standard deviation")


def curves_and_dots(folder: str, runs: Runs, colors: Mapping[str, str]) -> str:
    with figure(9, 3.6, ncols=2) as (drawn, (accuracy, difference)):
        for method, by_seed in runs.items():
            epochs, found = series(by_seed, "test_accuracy")
            mean = 100 * found.mean(0)
            window = max(1, len(mean) // SMOOTHED)
            smooth = [np.convolve(each, np.full(window, 1 / window), "valid") for each in (epochs, mean)]
            accuracy.plot(*smooth, **line(colors[method]) | {"marker": ""})
        title = f"test accuracy, %, mean of {window} epochs" if window > 1 else "test accuracy, %"
        accuracy.set(xlabel="epoch", title=title, ylim=(93, 100) if folder == "digits" else None)
        accuracy.xaxis.get_major_locator().set_params(integer=True)
        _differences(difference, runs, colors)
        difference.set(title="test accuracy after the last epoch", xlabel="points from ERM with the same seed")
        return to_svg(
            drawn,
            f"learning curves on {folder}, mean over seeds; and the difference from ERM in test accuracy after the "
            "last epoch: a dot for each seed, a line at their mean",
        )


def dots(folder: str, runs: Runs, colors: Mapping[str, str]) -> str:
    with figure(9, 0.9 + 0.22 * len(runs)) as (drawn, axes):
        _differences(axes, runs, colors)
        axes.set(xlabel="test accuracy after the last epoch: points from ERM with the same seed")
        return to_svg(
            drawn, f"difference from ERM in test accuracy on {folder}: a dot for each seed, a line at their mean"
        )


def _differences(axes: Any, runs: Runs, colors: Mapping[str, str]) -> None:
    """A row for each method, the best on top."""
    final = {
        method: {seed: 100 * epochs[-1]["test_accuracy"] for seed, epochs in seeds.items()}
        for method, seeds in runs.items()
    }
    points = {
        method: [accuracy - final["erm"][seed] for seed, accuracy in seeds.items()] for method, seeds in final.items()
    }
    order = sorted(points, key=lambda method: np.mean(points[method]))
    axes.axvline(0, color=BASELINE_COLOR, linewidth=1, linestyle=(0, (4, 3)))
    for y, method in enumerate(order):
        mean = np.mean(points[method])
        if mean < FAR:
            axes.text(FAR, y, f"← {mean:.0f}".replace("-", "−"), va="center", color=colors[method])
            continue
        axes.plot(mean, y, "|", color=colors[method], markersize=11, markeredgewidth=1.6)
        axes.scatter(points[method], [y] * len(points[method]), s=18, color=colors[method], alpha=0.7, linewidths=0)
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(-0.7, len(order) - 0.3))
    if min(map(np.mean, points.values())) < FAR:
        axes.set(xlim=(FAR - 0.5, None))


if __name__ == "__main__":
    main()
