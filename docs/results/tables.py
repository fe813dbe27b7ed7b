"""Write the tables of methods in docs/results.md anew, from the metrics kept here: `python docs/results/tables.py`.

A table stands below the comment that names its folder: `<!-- table of results/digits -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from make import read

from multimix.reports.headline import points
from multimix.reports.statistics import Estimate, estimate, paired_difference
from multimix.training.records import best_record

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "results.md"
Run = Sequence[Mapping[str, Any]]
"""An object for each epoch."""


def write_tables(text: str) -> str:
    """The document with every table that a comment announces made anew."""
    return re.sub(
        r"(<!-- table of results/(\S+) -->\n)(?:\|.*\n)*", lambda match: f"{match[1]}{table(HERE / match[2])}\n", text
    )


def table(folder: Path) -> str:
    """Means and standard deviations over seeds; differences from ERM paired by seed, with 95 % t-intervals."""
    rows = json.loads((folder / "conditions.json").read_text())["rows"]
    runs = read(folder)
    erm = accuracies(runs["erm"])
    some = all("test_accuracy" in epoch for run in runs["erm"].values() for epoch in run)
    paper = any("paper" in row for row in rows.values())
    titles = [
        "method", "seeds", "test accuracy, %", "best epoch, %" if some else "best evaluated epoch, %",
        "difference from ERM", "calibration error, %", "neg. log-likelihood", "speed / ERM's",
        *(["the paper's accuracy, % (all images, 2000 epochs)"] if paper else []),
    ]  # fmt: skip
    lines = [titles, ["---"] * len(titles)]
    for name, row in rows.items():
        seeds = runs[name]
        change = paired_difference(accuracies(seeds), erm)
        lines.append(
            [
                row["label"],
                str(len(seeds)),
                spread(estimate(list(accuracies(seeds).values())), 2),
                spread(estimate([100 * best_record(run)["test_accuracy"] for run in seeds.values()]), 2),
                "" if name == "erm" else "–" if change is None else points(change, scale=1),
                spread(estimate([100 * run[-1]["test_ece"] for run in seeds.values()]), 2),
                spread(estimate([run[-1]["test_loss"] for run in seeds.values()]), 3),
                f"{row['speed']:.2f}" if "speed" in row else "–",
                *([f"{row['paper']:.2f}" if "paper" in row else "–"] if paper else []),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracies(seeds: Mapping[int, Run]) -> dict[int, float]:
    return {seed: 100 * run[-1]["test_accuracy"] for seed, run in seeds.items()}


def spread(value: Estimate, digits: int) -> str:
    return f"{value.mean:.{digits}f}" + (f" ± {value.std:.{digits}f}" if value.n > 1 else "")


if __name__ == "__main__":
    DOCUMENT.write_text(write_tables(DOCUMENT.read_text()))
