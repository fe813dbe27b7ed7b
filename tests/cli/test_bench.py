"""`multimix bench`, and a reader of the output that goes away."""

import json
import subprocess
import sys
from pathlib import Path

from multimix.cli import main


def test_bench_prints_and_writes(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("multimix.benchmarking.loss.SIZES", ((16, 5, 1),))
    main(["bench", "--n", "20", "--b", "8", "--rounds", "3", "--json", str(tmp_path / "new" / "bench.json")])
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert found["machine"]["torch"]
    assert [row["n"] for row in found["loss"]] == [20]
    assert "speedup" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"'{sys.executable}' -m multimix recipes | head -1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert run.stderr == ""
