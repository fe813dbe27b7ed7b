"""The tables of the documents say what the metrics that are kept beside them say."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from multimix.reports.plan import Plan, Speed

from .conftest import MakeRun

DOCS = Path(__file__).parents[2] / "docs"


@contextmanager
def script(path: Path) -> Iterator[ModuleType]:
    """A script of the documents as a module, with its neighbours to import, as Python runs it."""
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        yield importlib.import_module(path.stem)
    finally:
        sys.path.remove(str(path.parent))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == path.parent:
                del sys.modules[name]


def test_the_tables_of_the_comparisons_are_those_of_the_kept_runs() -> None:
    text = (DOCS / "results.md").read_text()
    folders = re.findall(r"<!-- table of results/(\S+) -->\n\| method", text)
    assert set(folders) == {file.parent.name for file in (DOCS / "results").glob("*/*-seed0.jsonl")}
    with script(DOCS / "results" / "tables.py") as tables:
        assert tables.write_tables(text) == text, "run `python docs/results/tables.py`"


def test_every_kept_run_is_in_a_table() -> None:
    for conditions in (DOCS / "results").glob("*/conditions.json"):
        rows = set(json.loads(conditions.read_text())["rows"])
        assert rows == {file.name.rpartition("-seed")[0] for file in conditions.parent.glob("*-seed*.jsonl")}


def test_the_tables_of_the_study_are_those_of_its_runs() -> None:
    kept = (DOCS / "results" / "study" / "tables.md").read_text()
    with script(DOCS / "results" / "study" / "tables.py") as tables:
        assert tables.every_setting() == kept, "run `python docs/results/study/tables.py`"
    for title, count in (("On the test set", 18), ("All five factors at once", 32)):
        section = re.search(rf"^## {title}\n(.*?)^## ", (DOCS / "study.md").read_text(), re.M | re.S)
        assert section is not None
        rows = [line for line in section[1].splitlines() if re.match(r"\| (?!setting|alpha \||change|---)", line)]
        assert len(rows) == count
        assert set(rows) <= set(kept.splitlines())


def test_the_tables_of_frozen_embeddings_are_those_of_their_runs() -> None:
    text = (DOCS / "frozen.md").read_text()
    with script(DOCS / "results" / "frozen" / "tables.py") as tables:
        kept = text.partition("<!-- tables -->\n")[2].partition("<!-- end of tables -->")[0]
        assert tables.tables() == kept, "run `python docs/results/frozen/tables.py`"
        runs = tables.found()
        assert {len(seeds) for seeds in runs.values()} == {10}
        assert len(runs) == 4 * 2 * 6 * 7
        # By hand, for one cell: the decay of the best mean over the validation sentences, then the test sentences.
        mine = {decay: runs["ag", "mlp", "mixup of pairs", decay].values() for decay in tables.DECAYS}
        chosen = max(mine, key=lambda decay: statistics.fmean(row["val_accuracy"] for row in mine[decay]))
        values = [100 * row["test_accuracy"] for row in mine[chosen]]
        assert f" {statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f} | " in kept


def test_effects_of_the_grid_by_hand() -> None:
    runs = {}
    for alpha, m, n, share, rescaled in itertools.product(
        (0.02, 0.1), (4, 16, None), (100, 1000), (0.5, 1), (False, True)
    ):
        name = f"multimix(alpha={alpha}, m={m}, n={n}{', rescale=True' if rescaled else ''}, share={share})"
        change = 0.1 * (n == 1000) + 0.02 * rescaled * (share == 1) - 0.05 * (m is None)
        runs[name] = {
            seed: {"accuracy": 0.5 + 0.3 * seed + change + 0.01 * seed * (n == 1000), "nll": 1.0, "ece": alpha}
            for seed in (0, 1)
        }
    with script(DOCS / "results" / "study" / "grid.py") as grid:
        rows = [line.split(" | ")[1:] for line in grid.effects(runs, 64).splitlines()[2:]]
        range_of_alpha = grid.Mixing.of("multimix(alpha=(0.5, 2), rescale=True, share=1)")
        assert range_of_alpha == ((0.5, 2), None, 1000.0, 1.0, True)
        assert grid.Mixing.of("multimix(n=10)") is None
    # t is 12.706 at one degree of freedom; the two seeds differ in what n does only, and no interval is told elsewhere.
    assert [row[1] for row in rows] == [
        "+10.50 ± 6.35", "−1.00", "+2.00", "+0.00 ± 0.00", "+0.00 ± 0.00", "+0.00 ± 0.00", "−5.00",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["24", "24", "12", "12", "24", "16", "16"]
    assert rows[4][3] == "+8.0 |"


def write_run(folder: Path, name: str, seed: int, accuracies: list[float]) -> None:
    lines = [
        {"epoch": k, "test_accuracy": accuracy, "test_ece": 0.05, "test_loss": 1.5}
        for k, accuracy in enumerate(accuracies, 1)
    ]
    (folder / f"{name}-seed{seed}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_table_by_hand(tmp_path: Path) -> None:
    for seed, (erm, ours) in enumerate([(0.50, 0.54), (0.52, 0.55)]):
        write_run(tmp_path, "erm", seed, [0.6, erm])
        write_run(tmp_path, "multimix", seed, [0.1, ours])
    rows = {"erm": {"label": "erm", "speed": 1}, "multimix": {"label": "ours"}}
    (tmp_path / "conditions.json").write_text(json.dumps({"rows": rows}))
    with script(DOCS / "results" / "tables.py") as tables:
        lines = tables.table(tmp_path).splitlines()
    # Standard deviations are half of the range times the root of two; t is 12.706 at one degree of freedom.
    assert lines[2] == "| erm | 2 | 51.00 ± 1.41 | 60.00 ± 0.00 |  | 5.00 ± 0.00 | 1.500 ± 0.000 | 1.00 |"
    assert lines[3] == "| ours | 2 | 54.50 ± 0.71 | 54.50 ± 0.71 | +3.50 ± 6.35 | 5.00 ± 0.00 | 1.500 ± 0.000 | – |"


def test_a_second_comparison_is_added_to_the_first(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("first/erm/seed0", accuracies=[0.5, 0.6])
    make_run("first/multimix/seed0", method="multimix", accuracies=[0.5, 0.65])
    Plan(tmp_path / "first", ["erm", "multimix"], [0], "one", "then", {"multimix": Speed(9.0, 0.5)}).write()
    make_run("second/cutmix/seed0", method="cutmix", accuracies=[0.5, 0.7])
    Plan(tmp_path / "second", ["cutmix"], [0], "two", "later").write()
    with script(DOCS / "results" / "collect.py") as collect:
        monkeypatch.setattr(collect, "HERE", tmp_path)
        collect.main("kept", tmp_path / "first")
        collect.main("kept", tmp_path / "second")
    with script(DOCS / "results" / "tables.py") as tables:
        lines = tables.table(tmp_path / "kept").splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| erm", "| multimix (paper's regime)", "| cutmix"]
    assert [line.split(" | ")[4] for line in lines] == ["", "+5.00", "+10.00"]
    assert [line.split(" | ")[-1] for line in lines] == ["– |", "0.50 |", "– |"]
    kept = json.loads((tmp_path / "kept" / "conditions.json").read_text())
    assert [comparison["command"] for comparison in kept["comparisons"]] == ["one", "two"]


def test_what_diverged_is_null_in_json() -> None:
    with script(DOCS / "results" / "study" / "study.py") as study:
        row = study.finite({"setting": "a", "nll": float("inf"), "ece": float("nan"), "accuracy": 0.5, "seed": 0})
    assert row == {"setting": "a", "nll": None, "ece": None, "accuracy": 0.5, "seed": 0}
