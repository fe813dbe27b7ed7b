"""The tables and figures of docs/study.md, from the results kept here: `python docs/results/study/tables.py`."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import grid
from grid import MIXINGS, Mixing, Runs, mean
from plan import BASES, CONTROL, TIMES

from multimix.functional import rescaling_factor
from multimix.reports.headline import points
from multimix.reports.statistics import estimate, paired_difference
from multimix.reports.style import COLORS, figure, standalone, to_svg

PAPER = ("multimix", "multimix(alpha=(0.5, 2), share=0.5)")  # the paper's regime, as the parts spell it
HERE = Path(__file__).parent
# Of the figure of the schedules: the label, and the names in the parts.
SCHEDULED = {
    "ERM": ("erm",),
    "input mixup": ("input-mixup",),
    "MultiMix, paper's regime": PAPER,
    "MultiMix, alpha = 0.02": ("multimix(alpha=0.02)", "multimix(alpha=0.02, share=0.5)"),
    "control": tuple(CONTROL),
}
TICKS = {0.01: "0.01", 0.02: "0.02", 0.05: "0.05", 0.1: "0.1", 0.2: "0.2", 0.5: "0.5", 1.1: "[0.5, 2]"}
"""Where the map has which alpha."""
BELOW = {"digits": 6, "cifar20": 14}
"""Points of accuracy below ERM that the map shows."""
BESIDE = {
    "digits-stacked": ("lead",),
    "cifar20-stacked": ("long",),
    "digits-smoothing": ("lead",),
    "cifar20-smoothing": ("lead",),
    "cifar20-softness": ("confirm",),
}
"""Which part has ERM with the seeds and the schedule of a part without it, where the map has others."""
VARIED = {
    "map": ("alpha varied, m = b", "o"),
    "m": ("m varied, alpha 1 or [0.5, 2]", "s"),
    "grid": ("both varied", "^"),
}
"""Of the figure of the factor: which parts it shows, and how."""


def main() -> None:
    (HERE / "tables.md").write_text(every_setting())
    bases = ("digits", "cifar20")
    (HERE / "map.svg").write_text(draw_map({base: read(HERE / f"{base}-map.jsonl") for base in bases}))
    (HERE / "schedule.svg").write_text(draw_schedules({base: schedules(base) for base in bases}))
    (HERE / "factor.svg").write_text(draw_factor(bases))


def every_setting() -> str:
    """The document of all runs, a table for each file."""
    lines = [
        "# Every setting of [the study](../../study.md)",
        "",
        "Written by `python docs/results/study/tables.py`.",
        "",
    ]
    for file in sorted(HERE.glob("*-*.jsonl")):
        runs = read(file)
        base, _, part = file.stem.partition("-")
        beside = ("map", *BESIDE.get(file.stem, ()))
        whole = {name: seeds for other in beside for name, seeds in read(HERE / f"{base}-{other}.jsonl").items()} | runs
        seconds = sum(row["seconds"] for seeds in runs.values() for row in seeds.values())
        lines += [
            f"## {file.stem}",
            "",
            f"{sum(map(len, runs.values()))} runs, {seconds / 60:.0f} minutes of training.",
            "",
        ]
        lines += [table(runs, whole["erm"], whole[next(name for name in PAPER if name in whole)]), ""]
        if part == "grid":
            b = BASES[base].batch_size
            lines += [
                "Accuracy, %, n = 100 / 1000:",
                "",
                grid.cells(runs, b),
                "",
                "Changes:",
                "",
                grid.effects(runs, b),
                "",
            ]
    return "\n".join(lines)


def schedules(base: str) -> dict[int, Runs]:
    """The runs by how many times the schedule of the map they take."""
    files = {1: HERE / f"{base}-map.jsonl", **{times: HERE / f"{base}-{part}.jsonl" for part, times in TIMES.items()}}
    return {times: read(file) for times, file in files.items() if file.exists()}


def read(file: Path) -> Runs:
    runs: defaultdict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        runs[row["setting"]][row["seed"]] = {k: math.nan if v is None else v for k, v in row.items()}
    return runs


def table(runs: Runs, erm: Mapping[int, Mapping[str, float]], paper: Mapping[int, Mapping[str, float]]) -> str:
    lines = [
        "| setting | seeds | accuracy, % | over ERM | over the paper's regime | neg. log-likelihood "
        "| calibration error, % | under FGSM, % | training accuracy, % |",
        "|---" * 9 + "|",
    ]
    for setting, seeds in sorted(runs.items(), key=lambda item: -mean(item[1], "accuracy")):
        cells = [
            setting,
            str(len(seeds)),
            spread(seeds, "accuracy", 100, 2),
            "" if seeds is erm else difference(seeds, erm, "accuracy"),
            "" if seeds is paper else difference(seeds, paper, "accuracy"),
            spread(seeds, "nll", 1, 3),
            spread(seeds, "ece", 100, 1),
            spread(seeds, "fgsm_accuracy", 100, 1),
            f"{100 * mean(seeds, 'train_accuracy'):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(seeds: Mapping[int, Mapping[str, float]], key: str, scale: float, digits: int) -> str:
    found = estimate([row[key] for row in seeds.values()])
    if not math.isfinite(found.mean) or scale * found.mean > 1e4:
        return "diverged"
    std = "" if found.n == 1 else f" ± {scale * found.std:.{digits}f}"
    return f"{scale * found.mean:.{digits}f}{std}"


def difference(seeds: Mapping[int, Mapping[str, float]], reference: Mapping[int, Mapping[str, float]], key: str) -> str:
    values, others = ({seed: row[key] for seed, row in side.items()} for side in (seeds, reference))
    change = paired_difference(values, others)
    return "" if change is None else points(change)


def draw_map(maps: Mapping[str, Runs]) -> str:
    """Accuracy and likelihood relative to ERM over alpha, a line for each share and rescaling."""
    with figure(9, 6, nrows=2, ncols=len(maps), squeeze=False) as (drawn, axes):
        for column, (base, runs) in enumerate(maps.items()):
            for row, (key, scale, title) in enumerate(
                (("accuracy", 100, "accuracy, %"), ("nll", 1, "neg. log-likelihood"))
            ):
                panel = axes[row][column]
                erm = mean(runs["erm"], key) * scale
                panel.axhline(erm, color="#8a8a8a", linewidth=1, label="ERM")
                panel.axhline(
                    mean(runs["input-mixup"], key) * scale, color="#8a8a8a", linewidth=1, linestyle=":",
                    label="input mixup",
                )  # fmt: skip
                for color, mixing in zip(COLORS, MIXINGS, strict=False):
                    points = []
                    for setting, seeds in runs.items():
                        found = Mixing.of(setting)
                        if found and (found.share, found.rescaled) == mixing:
                            values = estimate([item[key] * scale for item in seeds.values()])
                            alpha = 1.1 if isinstance(found.alpha, tuple) else found.alpha
                            points.append((alpha, values.mean, values.std))
                    x, y, std = zip(*_gaps_shown(sorted(points)), strict=True)
                    # Side by side, so that bars do not cover each other; those of what failed say nothing.
                    x = [alpha * 1.06 ** (MIXINGS.index(mixing) - 1.5) for alpha in x]
                    most = 6 if key == "accuracy" else erm / 2
                    std = [0 if height > most else height for height in std]
                    panel.errorbar(x, y, std, color=color, marker="o", markersize=3, capsize=2, label=_label(*mixing))
                panel.set(xscale="log", title=f"{base}: {title}")
                panel.set_xticks(list(TICKS), list(TICKS.values()))
                panel.minorticks_off()
                # What failed is far outside.
                if key == "accuracy":
                    panel.set_ylim(erm - BELOW[base], erm + 4)
                else:
                    panel.set_xlabel("alpha ([0.5, 2]: the paper's)")
                    panel.set_ylim(0.7 * erm, min(panel.get_ylim()[1], 2 * erm))
        handles = axes[0][0].get_legend_handles_labels()
        drawn.legend(*handles, loc="outside lower center", ncols=6, frameon=False)
        return standalone(to_svg(drawn, "accuracy and likelihood over alpha"))


def _label(share: float, rescaled: bool) -> str:
    return ("alone" if share == 1 else "half and half") + (", rescaled" if rescaled else "")


def draw_factor(bases: Iterable[str]) -> str:
    """How far accuracy is from ERM's, of the same seeds, over the factor by which mixing weakens the gradient."""
    bases = tuple(bases)
    with figure(9, 4.2, ncols=len(bases), squeeze=False) as (drawn, axes):
        for panel, base in zip(axes[0], bases, strict=True):
            erm = read(HERE / f"{base}-map.jsonl")["erm"]
            panel.axhline(0, color="#8a8a8a", linewidth=1, label="ERM")
            for part, (_, marker) in VARIED.items():
                for setting, seeds in read(HERE / f"{base}-{part}.jsonl").items():
                    found = Mixing.of(setting)
                    if found is None:
                        continue
                    factor = rescaling_factor(BASES[base].batch_size, found.m, found.alpha)
                    color = COLORS[MIXINGS.index((found.share, found.rescaled))]
                    over_erm = mean(seeds, "accuracy") - mean({seed: erm[seed] for seed in seeds}, "accuracy")
                    panel.scatter(
                        factor, 100 * over_erm, s=22, marker=marker, edgecolors=color, linewidths=1.2,
                        facecolors="none" if found.n < 1000 else color, alpha=0.8,
                    )  # fmt: skip
            panel.set(xscale="log", title=f"{base}: accuracy over ERM's, points")
            panel.set_xlabel("factor by which mixing weakens the gradient")
            # What fails is far below, and what does not differs by little.
            panel.set_yscale("symlog", linthresh=6, linscale=2)
            panel.set_yticks([-80, -40, -20, -10, -6, -3, 0, 3], ["−80", "−40", "−20", "−10", "−6", "−3", "0", "3"])
            panel.set_ylim(None, 6)
            panel.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
            panel.minorticks_off()
        first = axes[0][0]
        for color, mixing in zip(COLORS, MIXINGS, strict=False):
            first.plot([], [], color=color, linewidth=5, label=_label(*mixing))
        for label, marker in VARIED.values():
            first.plot([], [], color="#6b6b6b", marker=marker, linestyle="none", markersize=5, label=label)
        first.plot(
            [], [], color="#6b6b6b", marker="^", fillstyle="none", linestyle="none", markersize=5, label="n = 100"
        )
        drawn.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        return standalone(to_svg(drawn, "accuracy over the factor by which the gradient is weakened"))


def _gaps_shown(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Points of the map with a break of the line wherever an alpha was not run."""
    missing = set(TICKS) - {point[0] for point in points}
    return sorted([*points, *((alpha, math.nan, math.nan) for alpha in missing)])


def draw_schedules(found: Mapping[str, Mapping[int, Runs]]) -> str:
    """Accuracy over the length of the schedule, a line for each method, of the seeds that all lengths have."""
    with figure(9, 3.6, ncols=len(found), squeeze=False) as (drawn, axes):
        for panel, (base, by_times) in zip(axes[0], found.items(), strict=True):
            seeds = set.intersection(*(set(runs["erm"]) for runs in by_times.values()))
            for color, (label, names) in zip(("#8a8a8a", *COLORS), SCHEDULED.items(), strict=False):
                points = []
                for times, runs in by_times.items():
                    if name := next((name for name in names if name in runs), None):
                        values = estimate([100 * row["accuracy"] for k, row in runs[name].items() if k in seeds])
                        # Side by side, so that bars do not cover each other.
                        place = times * 1.04 ** (list(SCHEDULED).index(label) - 2)
                        points.append((place, values.mean, 0 if values.n == 1 else values.std))
                panel.errorbar(
                    *zip(*points, strict=True), color=color, marker="o", markersize=3, capsize=2, label=label
                )
            panel.set(xscale="log", title=f"{base}: validation accuracy, %", xlabel="length of the schedule")
            panel.set_xticks(list(by_times), [f"{times} x" for times in by_times])
            panel.minorticks_off()
        drawn.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        return standalone(to_svg(drawn, "validation accuracy over the length of the schedule"))


if __name__ == "__main__":
    sys.exit(main())
