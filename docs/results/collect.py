"""Keep the raw metrics of a comparison here: `python docs/results/collect.py NAME COMPARISON`, then
`python docs/results/tables.py` and `python docs/results/make.py`.

A second comparison of the same name is added to the first: its runs beside, or in the place of, those that are kept.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from multimix.reports.plan import folder_name
from multimix.reports.summary import summarize

HERE = Path(__file__).parent
LABELS = {"multimix": "paper's regime", "dense-multimix": "paper's regime"} | dict.fromkeys(
    ("multimix-small-alpha", "dense-multimix-small-alpha"), "our preset"
)


def main(name: str, comparison: Path) -> None:
    kept = HERE / name
    kept.mkdir(exist_ok=True)
    file = kept / "conditions.json"
    conditions: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    rows = conditions.pop("rows", {})
    summary = summarize([comparison])
    for group, row in zip(summary.groups, summary.rows, strict=True):
        for seed, run in group.runs.items():
            shutil.copyfile(run.path / "metrics.jsonl", kept / f"{folder_name(group.method)}-seed{seed}.jsonl")
        label = f"{group.method} ({LABELS[group.method]})" if group.method in LABELS else group.method
        kept_row = rows.setdefault(folder_name(group.method), {"label": label})
        if row.speed is not None:
            kept_row["speed"] = row.speed.relative
    for plan in summary.plans:
        conditions.setdefault("comparisons", []).append(
            {"command": plan.command, "started": plan.started, "speed_conditions": plan.speed_conditions}
        )
    file.write_text(json.dumps(conditions | {"rows": rows}, indent=2, ensure_ascii=False) + "\n")
    for line in summary.missing:
        print("missing:", line)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
