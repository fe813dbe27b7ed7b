"""The tables of docs/frozen.md, from runs.csv: `python docs/results/frozen/tables.py`."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from study import DECAYS, HEADS, LOSSES, SETS, read

from multimix.reports.headline import points
from multimix.reports.statistics import Difference, estimate, paired_difference

DOCUMENT = Path(__file__).parents[2] / "frozen.md"
BASELINE = "cross entropy"
Runs = dict[tuple[str, str, str, float], dict[int, dict[str, float]]]


def main() -> None:
    before, _, rest = DOCUMENT.read_text().partition("<!-- tables -->\n")
    _, _, after = rest.partition("<!-- end of tables -->\n")
    DOCUMENT.write_text(f"{before}<!-- tables -->\n{tables()}<!-- end of tables -->\n{after}")


def found() -> Runs:
    runs: Runs = defaultdict(dict)
    for row in read():
        numbers = {key: float(value) for key, value in row.items() if key not in ("set", "head", "loss")}
        runs[row["set"], row["head"], row["loss"], numbers["decay"]][int(row["seed"])] = numbers
    return runs


def tables() -> str:
    runs, lines = found(), []
    for head in HEADS:
        lines += [
            f"**{'Linear head' if head == 'linear' else 'One hidden layer'}**: test accuracy, %",
            "",
            f"| loss | {' | '.join(SETS)} | over {BASELINE}, all sets | neg. log-likelihood, over {BASELINE} "
            "| calibration error, over it, points | weight decays |",
            "|---" * (len(SETS) + 5) + "|",
        ]
        for loss in LOSSES:
            chosen = {name: best(runs, name, head, loss, "accuracy") for name in SETS}
            cells = [loss]
            for name in SETS:
                values = estimate([100 * row["test_accuracy"] for row in runs[name, head, loss, chosen[name]].values()])
                cells.append(f"{values.mean:.1f} ± {values.std:.1f}")
            for key, scale, digits in (("test_accuracy", 100, 2), ("test_nll", 1, 3), ("test_ece", 100, 1)):
                change = over(runs, head, loss, key)
                cells.append("" if loss == BASELINE else points(change, digits=digits, scale=scale))
            cells.append(" ".join(f"{chosen[name]:g}" for name in SETS))
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def best(runs: Runs, name: str, head: str, loss: str, by: str) -> float:
    """The weight decay of the highest validation accuracy, or of the lowest likelihood, mean over seeds."""
    sign = 1 if by == "accuracy" else -1
    return max(DECAYS, key=lambda decay: sign * mean(runs[name, head, loss, decay], f"val_{by}"))


def mean(seeds: dict[int, dict[str, float]], key: str) -> float:
    return math.fsum(row[key] for row in seeds.values()) / len(seeds)


def over(runs: Runs, head: str, loss: str, key: str) -> Difference:
    """Paired by seed, each seed's difference the mean over the data sets."""
    values: list[dict[int, float]] = []
    by = "accuracy" if key == "test_accuracy" else "nll"
    for one in (loss, BASELINE):
        by_set = [runs[name, head, one, best(runs, name, head, one, by)] for name in SETS]
        values.append({seed: math.fsum(of[seed][key] for of in by_set) / len(by_set) for seed in by_set[0]})
    return paired_difference(*values)


if __name__ == "__main__":
    main()
