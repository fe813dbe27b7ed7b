"""`multimix bench`, and a reader of the output that goes away."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from multimix.benchmarking import methods as benchmark
from multimix.cli import main


def test_bench_prints_and_writes(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("multimix.benchmarking.loss.SIZES", ((16, 5, 1),))
    main(["bench", "--n", "20", "--b", "8", "--rounds", "3", "--json", str(tmp_path / "new" / "bench.json")])
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert found["machine"]["torch"]
    assert [row["n"] for row in found["loss"]] == [20]
    assert "speedup" in capsys.readouterr().out


def test_bench_methods_prints_and_writes(tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "methods.json"
    small = ["--model", "smallnet-w4", "--image-size", "8", "--classes", "3", "--batch-size", "4", "--rounds", "1"]
    main(["bench", "methods", "--methods", "erm,manifold-mixup(layers=9)", "--n", "7", *small, "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["setting"]["model"] == "smallnet-w4"
    names = [row["method"] for row in found["methods"]]
    assert names == ["erm", "manifold-mixup(layers=9)", "multimix-alone(n=7)", "dense-multimix-alone(n=7)"]
    printed = capsys.readouterr().out
    assert "not measured: layers must be at most" in printed
    assert "images/s" in printed


def test_all_are_the_methods_that_need_no_options(monkeypatch, capsys) -> None:
    monkeypatch.setattr(benchmark, "run", lambda chosen, *_, **__: [benchmark.Row(m, 1, 1, 1, 1) for m in chosen])
    main(["bench", "methods", "--methods", "erm,all,cutmix(alpha=0.5)"])
    printed = capsys.readouterr().out
    assert "puzzlemix" in printed
    assert "cutmix(alpha=0.5)" in printed
    assert "either" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "cutmixx"], "did you mean cutmix?"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--modle", "x"], "did you mean --model?"),
    ],
)
def test_bench_methods_mistakes(options: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "methods", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"'{sys.executable}' -m multimix recipes | head -1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert run.stderr == ""
