"""The tables and figures of docs/study.md, from the results kept here: `python docs/results/study/tables.py`."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from plan import TIMES

from multimix.reports.statistics import estimate, paired_difference
from multimix.reports.style import COLORS, figure, standalone, to_svg

PAPER = ("multimix", "multimix(alpha=(0.5, 2), share=0.5)")  # the paper's regime, as the parts spell it
HERE = Path(__file__).parent
# Of the figure of the schedules: the label, and the names in the parts.
SCHEDULED = {
    "ERM": ("erm",),
    "input mixup": ("input-mixup",),
    "MultiMix, paper's regime": PAPER,
    "MultiMix, paper's alpha, alone": ("multimix(share=1)", "multimix(alpha=(0.5, 2), share=1)"),
    "MultiMix, alpha = 0.02": ("multimix(alpha=0.02)", "multimix(alpha=0.02, share=0.5)"),
}
TICKS = {0.01: "0.01", 0.02: "0.02", 0.05: "0.05", 0.1: "0.1", 0.2: "0.2", 0.5: "0.5", 1.1: "[0.5, 2]"}
"""Where the map has which alpha."""
Runs = Mapping[str, Mapping[int, Mapping[str, float]]]


def main() -> None:
    (HERE / "tables.md").write_text(every_setting())
    bases = ("digits", "cifar20")
    (HERE / "map.svg").write_text(draw_map({base: read(HERE / f"{base}-map.jsonl") for base in bases}))
    (HERE / "schedule.svg").write_text(draw_schedules({base: schedules(base) for base in bases}))


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
        whole = {**read(HERE / f"{file.stem.partition('-')[0]}-map.jsonl"), **runs}
        seconds = sum(row["seconds"] for seeds in runs.values() for row in seeds.values())
        lines += [
            f"## {file.stem}",
            "",
            f"{sum(map(len, runs.values()))} runs, {seconds / 60:.0f} minutes of training.",
            "",
        ]
        lines += [table(runs, whole["erm"], whole[next(name for name in PAPER if name in whole)]), ""]
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


def mean(seeds: Mapping[int, Mapping[str, float]], key: str) -> float:
    return estimate([row[key] for row in seeds.values()]).mean


def spread(seeds: Mapping[int, Mapping[str, float]], key: str, scale: float, digits: int) -> str:
    found = estimate([row[key] for row in seeds.values()])
    if not math.isfinite(found.mean) or scale * found.mean > 1e4:
        return "diverged"
    std = "" if found.n == 1 else f" ± {scale * found.std:.{digits}f}"
    return f"{scale * found.mean:.{digits}f}{std}"


def difference(seeds: Mapping[int, Mapping[str, float]], reference: Mapping[int, Mapping[str, float]], key: str) -> str:
    found = paired_difference(
        {seed: row[key] for seed, row in seeds.items()}, {seed: row[key] for seed, row in reference.items()}
    )
    if found is None:
        return ""
    half = "" if found.half_width != found.half_width else f" ± {100 * found.half_width:.2f}"
    return f"{100 * found.mean:+.2f}{half}".replace("-", "−")


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
                for color, (share, rescale) in zip(
                    COLORS, ((0.5, False), (1, False), (0.5, True), (1, True)), strict=False
                ):
                    points = []
                    for setting, seeds in runs.items():
                        found = re.fullmatch(r"multimix\(alpha=(.+?)(, rescale=True)?, share=([\d.]+)\)", setting)
                        if found and float(found[3]) == share and bool(found[2]) == rescale:
                            alpha = ast.literal_eval(found[1])
                            values = estimate([item[key] * scale for item in seeds.values()])
                            points.append((1.1 if isinstance(alpha, tuple) else alpha, values.mean, values.std))
                    x, y, std = zip(*_gaps_shown(sorted(points)), strict=True)
                    label = f"share {share:g}" + (", rescaled" if rescale else "")
                    panel.errorbar(x, y, std, color=color, marker="o", markersize=3, capsize=2, label=label)
                panel.set(xscale="log", title=f"{base}: {title}")
                panel.set_xticks(list(TICKS), list(TICKS.values()))
                panel.minorticks_off()
                if key == "accuracy":  # what diverged is far below
                    panel.set_ylim(erm - 14, erm + 5)
                if row == 1:
                    panel.set_xlabel("alpha ([0.5, 2]: the paper's)")
                    panel.set_ylim(0, min(panel.get_ylim()[1], 3 * erm))
        handles = axes[0][0].get_legend_handles_labels()
        drawn.legend(*handles, loc="outside lower center", ncols=6, frameon=False)
        return standalone(to_svg(drawn, "accuracy and likelihood over alpha"))


def _gaps_shown(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Points of the map with a break of the line wherever an alpha was not run."""
    missing = set(TICKS) - {point[0] for point in points}
    return sorted([*points, *((alpha, math.nan, math.nan) for alpha in missing)])


def draw_schedules(found: Mapping[str, Mapping[int, Runs]]) -> str:
    """The error over the length of the schedule, a line for each method, of the seeds that all lengths have."""
    with figure(9, 3.6, ncols=len(found), squeeze=False) as (drawn, axes):
        for panel, (base, by_times) in zip(axes[0], found.items(), strict=True):
            seeds = set.intersection(*(set(runs["erm"]) for runs in by_times.values()))
            for color, (label, names) in zip(("#8a8a8a", *COLORS), SCHEDULED.items(), strict=False):
                points = []
                for times, runs in by_times.items():
                    if name := next((name for name in names if name in runs), None):
                        values = estimate([100 - 100 * row["accuracy"] for k, row in runs[name].items() if k in seeds])
                        points.append((times, values.mean, 0 if values.n == 1 else values.std))
                panel.errorbar(
                    *zip(*points, strict=True), color=color, marker="o", markersize=3, capsize=2, label=label
                )
            panel.set(xscale="log", yscale="log", title=f"{base}: validation error, %", xlabel="length of the schedule")
            panel.set_xticks(list(by_times), [f"{times} x" for times in by_times])
            low, high = panel.get_ylim()
            ticks = [tick for tick in (5, 10, 20, 40, 50, 60, 80) if low <= tick <= high]
            panel.set_yticks(ticks, map(str, ticks))
            panel.minorticks_off()
        drawn.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return standalone(to_svg(drawn, "validation error over the length of the schedule"))


if __name__ == "__main__":
    sys.exit(main())
