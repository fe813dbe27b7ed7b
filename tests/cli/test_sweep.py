"""`multimix sweep`: mistakes before anything is trained, a whole small sweep, and going on with it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.forked_workers import fork_workers, stop_here, train_here

from multimix.cli import main
from multimix.cli.workers import Job
from multimix.training import train

SMALL = ["--model", "smallnet-w4", "--epochs", "1", "--per-class", "5", "--val-per-class", "5", "--seeds", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to vary: add --vary"),
        (["--vary", "n"], "--vary takes OPTION=VALUE,VALUE,..., got 'n'"),
        (["--vary", "n=1", "n=2"], "--vary names an option twice: n, n"),
        (["--vary", "alhpa=1"], "multimix has no option 'alhpa': did you mean alpha?"),
        (["--vary", "n=0"], "n must be at least 1, got 0"),
        (["--methods", "multimix(n=2)", "--vary", "n=1"], "multimix(n=2) has n already"),
        (["--vary", "n=1", "--method", "erm"], "sweep takes a list of methods: --methods erm"),
        (["--vary", "n=1", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--vary", "n=1", "--methods", ","], "--methods is empty: name some, separated by commas, such as multimix,"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "digits", *arguments, "--out", str(tmp_path / "made")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_sweep_is_drawn_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fork_workers(monkeypatch)
    command = ["sweep", "digits", "--methods", "multimix-alone", *SMALL, "--jobs", "1", "--out", str(tmp_path)]
    main([*command, "--vary", "n=5"])
    first = json.loads((tmp_path / "sweep.json").read_text())
    assert first["split"] == "validation"
    assert [(p["value"], p["seeds"]) for p in first["points"]] == [("as it is", 2), ("5", 2)]
    kept = (tmp_path / "multimix-alone-n=5" / "seed0" / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    main([*command, "--vary", "n=5", "alpha=0.1,(0.5,2)"])
    assert (tmp_path / "multimix-alone-n=5" / "seed0" / "result.json").stat().st_mtime_ns == kept
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    # The default spelled out is the default, and not trained again.
    assert [row["method"] for row in rows[2:]] == ["multimix-alone(alpha=0.1)", "multimix-alone"]
    assert rows[3]["accuracy"] == rows[0]["accuracy"]
    assert len(list(tmp_path.glob("multimix-alone*"))) == 3
    assert (tmp_path / "sweep-n.svg").is_file()
    assert (tmp_path / "sweep-alpha.svg").is_file()
    assert "validation accuracy, %" in capsys.readouterr().out
    # Fewer values and seeds make nothing of what is there already disappear.
    main([*command, "--vary", "n=5", "--seeds", "1"])
    last = json.loads((tmp_path / "sweep.json").read_text())
    assert last["vary"] == {"n": ["5"], "alpha": ["0.1", "(0.5,2)"]}
    assert [(p["value"], p["seeds"]) for p in last["points"]] == [
        ("as it is", 2), ("5", 2), ("0.1", 2), ("(0.5,2)", 2)
    ]  # fmt: skip


def stopped_sweep(out: Path) -> list[str]:
    """Its command."""
    command = ["sweep", "digits", "--methods", "multimix-alone", *SMALL, "--vary", "n=5", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 130
    return command


def test_a_sweep_that_is_stopped_shows_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first_only(jobs: list[Job], **_: object) -> None:
        train(jobs[0].config, jobs[0].out)
        raise KeyboardInterrupt

    monkeypatch.setattr("multimix.cli.planned.run_jobs", first_only)
    stopped_sweep(tmp_path)
    assert "Continue with: multimix sweep digits" in capsys.readouterr().err
    assert [p["seeds"] for p in json.loads((tmp_path / "sweep.json").read_text())["points"]] == [1, 0]
    assert (tmp_path / "sweep.html").is_file()


def test_a_sweep_that_is_stopped_before_anything_is_finished_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("multimix.cli.planned.run_jobs", stop_here)
    stopped_sweep(tmp_path)
    assert "Continue with: multimix sweep digits" in capsys.readouterr().err
    assert not (tmp_path / "sweep.html").exists()


@pytest.mark.parametrize("command", [["compare"], ["sweep", "--vary", "n=5"]])
def test_when_all_runs_fail_it_says_so(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("multimix.cli.planned.run_jobs", lambda jobs, **_: dict.fromkeys(jobs, "out of memory?"))
    name, *options = command
    with pytest.raises(SystemExit) as stop:
        main([name, "digits", "--methods", "multimix-alone", *options, *SMALL, "--out", str(tmp_path)])
    assert stop.value.code == 1
    assert "runs failed; tracebacks are in" in capsys.readouterr().err


def test_runs_of_a_comparison_in_the_same_folder_are_no_points_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("multimix.cli.planned.run_jobs", train_here)
    monkeypatch.setattr("multimix.cli.compare._report", lambda plan, options: None)
    main(["compare", "digits", "--methods", "erm", *SMALL, "--out", str(tmp_path)])
    monkeypatch.setattr("multimix.cli.planned.run_jobs", stop_here)
    sweep = stopped_sweep(tmp_path)
    monkeypatch.setattr("multimix.cli.planned.run_jobs", train_here)
    main(sweep)
    assert {p["base"] for p in json.loads((tmp_path / "sweep.json").read_text())["points"]} == {"multimix-alone"}


@pytest.mark.parametrize("command", [["compare"], ["sweep", "--vary", "n=5"]])
def test_a_folder_that_cannot_be_written_in_is_told_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("multimix.cli.planned.run_jobs", lambda *_, **__: pytest.fail("trained"))
    name, *options = command
    with pytest.raises(SystemExit) as stop:
        main([name, "digits", "--methods", "multimix-alone", *options, *SMALL, "--out", "/proc/none/of"])
    assert stop.value.code == 2
    assert "cannot write in /proc/none/of" in capsys.readouterr().err
