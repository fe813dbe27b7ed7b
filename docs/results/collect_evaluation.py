"""Keep what an evaluation measured here, without its figures, and print its tables, as Markdown:
`python docs/results/collect_evaluation.py EVALUATION NAME`."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multimix.reports.statistics import estimate, paired_difference

HERE = Path(__file__).parent
Numbers = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By label, column and seed."""


def main(evaluation: Path, name: str) -> None:
    whole = json.loads((evaluation / "evaluation.json").read_text())
    conditions = {
        key: re.sub(r"([= ])[~/][^' ,]+| --out \S+", lambda m: f"{m[1]}DIR" if m[1] else "", value)
        for key, value in whole["conditions"].items()
    }
    models = [
        {key: model[key] for key in ("label", "seed", "which", "method", "model")}
        | {"headline": {k: v for part in model["parts"].values() for k, v in part["headline"].items()}}
        | {part: kept(model["parts"][part]["result"]) for part, kept in KEPT.items() if part in model["parts"]}
        for model in whole["models"]
    ]
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    text = json.dumps({"conditions": conditions, "differences": whole["differences"], "models": models}, indent=1)
    (folder / "evaluation.json").write_text(re.sub(r"(\d\.\d{6})\d+", r"\1", text) + "\n")
    shutil.copyfile(evaluation / "evaluation.csv", folder / "evaluation.csv")
    print_table(columns(models, lambda model: model["headline"]))
    print()
    print_table(columns(models, _aurocs))
    print()
    print_table(columns(models, _by_class))
    for line in ("Command", "Hardware", "Versions"):
        print(f"\n{line}: {conditions[line]}")


KEPT: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "attacks": lambda result: (
        {k: result[k] for k in ("error", "fgsm_by_eps", "pgd_by_eps", "pgd_by_steps")}
        | {"checks failed": [check["name"] for check in result["checks"] if not check["passed"]]}
    ),
    "corruptions": lambda result: result["error"],
    "ood": lambda result: {
        name: {"images": one["images"], "metrics": one["metrics"]} for name, one in result["sets"].items()
    },
    "detection": lambda result: {key: value for key, value in result.items() if key not in ("pictures", "skipped")},
    "embedding": lambda result: result["spaces"],
    "speed": lambda result: {key: result[key] for key in ("rows", "by_n", "machine")},
}


def columns(
    models: Sequence[Mapping[str, Any]], numbers: Callable[[Mapping[str, Any]], Mapping[str, float]]
) -> Numbers:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for model in models:
        for title, value in numbers(model).items():
            found.setdefault(model["label"], {}).setdefault(title, {})[model["seed"]] = value
    return found


def _aurocs(model: Mapping[str, Any]) -> dict[str, float]:
    sets = model.get("ood", {})
    return {f"{name}, %": 100 * one["metrics"]["max-softmax"]["auroc"] for name, one in sets.items()}


def _by_class(model: Mapping[str, Any]) -> dict[str, float]:
    found = model.get("detection", {}).get("per_class", {})
    return {f"{name}, %": 100 * value for name, value in found.items()}


def print_table(numbers: Numbers) -> None:
    """Mean ± standard deviation over seeds; an asterisk where the 95 % interval of the paired difference from ERM
    excludes zero."""
    titles = list(dict.fromkeys(title for row in numbers.values() for title in row))
    if not titles:
        return
    print("| method | " + " | ".join(titles) + " |\n|---" + "|---" * len(titles) + "|")
    for label, row in numbers.items():
        print(f"| {label} | " + " | ".join(_cell(row.get(t), numbers.get("erm", {}).get(t), t) for t in titles) + " |")


def _cell(seeds: Mapping[int, float] | None, erm: Mapping[int, float] | None, title: str) -> str:
    if not seeds:
        return "–"
    digits = (
        1 if "error" in title or ("%" in title and "top" not in title) else 2 if "%" in title or "÷" in title else 3
    )
    mean, std, n = estimate(list(seeds.values()))
    difference = None if erm is None or erm is seeds else paired_difference(seeds, erm)
    beyond = difference is not None and difference.verdict in ("higher", "lower")
    spread = f" ± {std:.{digits}f}" if n > 1 else ""
    return f"{mean:.{digits}f}{spread}{'*' if beyond else ''}".replace("-", "−")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
