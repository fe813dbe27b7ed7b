"""`multimix evaluate RUN...`: evaluate finished runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..reports.evaluated import Evaluation, evaluate_run
from ..reports.runs import find_runs
from ..reports.tables import Cell, Table
from ..training.files import write_atomically, write_json
from .console import show_table, split_paths
from .options import parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `multimix evaluate RUN...` takes: run folders, or folders that hold runs, and these."""

    which: Literal["last", "best"] = "last"
    """Weights of the last epoch, or of the best."""
    out: Path | None = None
    """Write evaluation.json and evaluation.csv into this folder."""
    device: str | None = None
    """cpu or cuda; default: the GPU if there is one."""


def main(argv: list[str]) -> None:
    """Accuracy, likelihood and calibration of every run on its test set, side by side."""
    paths, rest = split_paths(argv)
    options = parse(
        rest,
        Options(),
        prog="multimix evaluate RUN...",
        description="Evaluates runs on their test set: top-1 and top-5 accuracy, negative log-likelihood, calibration "
        "error and the accuracy of every class.",
    )
    if not paths:
        raise ValueError("which runs? Give run folders, or folders that hold runs: multimix evaluate RUN...")
    found = {
        str(run.path): evaluate_run(run.path, which=options.which, device=options.device) for run in find_runs(paths)
    }
    refuse_mixture(found)
    show_table(overview(found))
    print()
    show_table(by_class(found))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "evaluation.json", {path: asdict(value) for path, value in found.items()})
        text = as_csv(found)
        write_atomically(options.out / "evaluation.csv", lambda file: file.write(text.encode()))
        print(f"\nWritten: {options.out / 'evaluation.json'} and {options.out / 'evaluation.csv'}")


def refuse_mixture(found: Mapping[str, Evaluation]) -> None:
    """ValueError when runs have different classes, since one table cannot hold them."""
    first = next(iter(found))
    for path, evaluation in found.items():
        if list(evaluation.class_names) != list(found[first].class_names):
            raise ValueError(
                f"{first} has {len(found[first].class_names)} classes and {path} has other ones "
                f"({len(evaluation.class_names)}): evaluate runs on different classes one by one"
            )


def overview(found: Mapping[str, Evaluation]) -> Table:
    """One row for each run."""
    best = max(round(e.accuracy, 4) for e in found.values())
    rows = [
        [
            Cell(path, path),
            Cell(f"{100 * e.accuracy:.2f}", e.accuracy, top=round(e.accuracy, 4) == best),
            Cell("–" if e.top5 is None else f"{100 * e.top5:.2f}", e.top5 or 0),
            Cell(f"{e.nll:.4f}", e.nll),
            Cell(f"{100 * e.ece:.2f}", e.ece),
            Cell(str(e.examples), e.examples),
        ]
        for path, e in found.items()
    ]
    return Table(["run", "top-1, %", "top-5, %", "NLL", "ECE, %", "test images"], rows)


def by_class(found: Mapping[str, Evaluation]) -> Table:
    """One row for each class, one column for each run; a long table is cut on the terminal, not in the files."""
    limit = 20
    names = next(iter(found.values())).class_names
    rows = []
    for number, name in enumerate(names[:limit]):
        accuracies = [e.per_class_accuracy[number] for e in found.values()]
        rows.append([Cell(name, name), *(Cell("–" if a is None else f"{100 * a:.1f}", a or 0) for a in accuracies)])
    if len(names) > limit:
        rows.append([Cell(f"and {len(names) - limit} more", ""), *(Cell("", "") for _ in found)])
    return Table(["class, %", *(Path(path).name for path in found)], rows)


def as_csv(found: Mapping[str, Evaluation]) -> str:
    """One line for each run, with a column for the accuracy of each class."""
    buffer = io.StringIO()
    names = next(iter(found.values())).class_names
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "which", "examples", "top1", "top5", "nll", "ece", *(f"class {name}" for name in names)])
    for path, e in found.items():
        row: list[Any] = [path, e.which, e.examples, e.accuracy, e.top5, e.nll, e.ece, *e.per_class_accuracy]
        writer.writerow(["" if value is None else value for value in row])
    return buffer.getvalue()
