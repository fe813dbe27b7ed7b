"""Keep the raw metrics of a comparison here, and print its table: `python docs/results/collect.py COMPARISON NAME`."""

import json
import shutil
import sys
from pathlib import Path

from multimix.reports.plan import folder_name, read_plan
from multimix.reports.summary import summarize

HERE = Path(__file__).parent


def main(comparison: Path, name: str) -> None:
    kept = HERE / name
    kept.mkdir(exist_ok=True)
    summary = summarize([comparison])
    for group in summary.groups:
        for seed, run in group.runs.items():
            shutil.copyfile(run.path / "metrics.jsonl", kept / f"{folder_name(group.method)}-seed{seed}.jsonl")
    shutil.copyfile(comparison / "results.csv", kept / "results.csv")
    plan = read_plan(comparison)
    assert plan is not None
    conditions = {"command": plan.command, "started": plan.started, "speed_conditions": plan.speed_conditions}
    (kept / "conditions.json").write_text(json.dumps(conditions, indent=2) + "\n")
    columns = [
        "method", "seeds", "test accuracy, %", "best epoch, %", "difference from ERM", "calibration error, %",
        "neg. log-likelihood", "speed / ERM's",
    ]  # fmt: skip
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in summary.rows:
        difference = ""
        if row.accuracy_difference is not None:
            d = row.accuracy_difference
            interval = "" if d.half_width != d.half_width else f" ± {100 * d.half_width:.2f}"
            difference = f"{100 * d.mean:+.2f}{interval}".replace("-", "−")
        speed = "" if row.speed is None or row.speed.relative is None else f"{row.speed.relative:.2f}"
        cells = [
            row.label,
            str(len(row.seeds)),
            _percent(row.last_accuracy),
            _percent(row.best_accuracy),
            difference,
            _percent(row.ece),
            f"{row.nll.mean:.3f}{_std(row.nll.std, 1, 3)}",
            speed,
        ]
        print("| " + " | ".join(cells) + " |")
    for line in summary.missing:
        print("missing:", line)


def _percent(estimate) -> str:
    return f"{100 * estimate.mean:.2f}{_std(estimate.std, 100, 2)}"


def _std(std: float, scale: float, digits: int) -> str:
    return "" if std != std else f" ± {scale * std:.{digits}f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
