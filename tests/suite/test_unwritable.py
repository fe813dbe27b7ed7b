"""Folders that cannot be written: refused before anything is computed, and nothing is lost where that comes late."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multimix import cli, files
from multimix.suite import Accuracy
from multimix.suite import page as page_module

MakeRun = Callable[..., Path]


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder one that nobody can write in; permission bits would not keep root out."""

    def make(folder: Path) -> None:
        def refusing(path: Path, mode: str = "r", **options: Any) -> Any:
            if mode[0] != "r" and folder in Path(path).parents:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return builtins.open(path, mode, **options)

        monkeypatch.setattr(files, "open", refusing, raising=False)

    return make


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    digits_run: MakeRun,
    tmp_path: Path,
    read_only: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = digits_run("run")
    read_only(run)
    with monkeypatch.context() as patch:
        patch.setattr(Accuracy, "evaluate", lambda *_: pytest.fail("computed"))
        with pytest.raises(SystemExit) as stop:
            cli.main(["evaluate", str(run), "--parts", "accuracy"])
    assert stop.value.code == 2
    expected = f"multimix: error: cannot write in {run} (Read-only file system): choose another folder with --out\n"
    assert capsys.readouterr().err == expected
    elsewhere = ["evaluate", str(run), "--parts", "accuracy", "--out", str(tmp_path / "out")]
    cli.main(elsewhere)
    assert (tmp_path / "out" / "evaluation.html").is_file()
    cli.main(elsewhere)
    assert "1 of 1 evaluations are there already" in capsys.readouterr().out


def test_what_was_kept_beside_a_run_is_used_where_it_cannot_be_added_to(
    digits_run: MakeRun,
    tmp_path: Path,
    read_only: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = digits_run("run")
    cli.main(["evaluate", str(run), "--parts", "accuracy", "--out", str(tmp_path / "first")])
    read_only(run)
    capsys.readouterr()
    cli.main(["evaluate", str(run), "--parts", "accuracy,embedding", "--out", str(tmp_path / "second")])
    assert "1 of 2 evaluations are there already" in capsys.readouterr().out
    cli.main(["evaluate", str(run), "--parts", "accuracy,embedding", "--out", str(tmp_path / "second")])
    assert "2 of 2 evaluations are there already" in capsys.readouterr().out


def test_the_table_is_shown_although_the_page_cannot_be_written(
    digits_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = digits_run("run")

    def full(path: Path, *_: object) -> None:
        raise OSError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(page_module, "write_json", full)
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(run), "--parts", "accuracy"])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert "top-1" in shown.out
    assert "erm" in shown.out
    assert shown.err.splitlines()[-1] == (
        f"multimix: error: cannot write {run / 'evaluation.json'}: No space left on device: choose another folder with "
        "--out"
    )


def test_a_traceback_that_cannot_be_kept_does_not_stop_the_others(
    digits_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [digits_run(f"runs/{seed}", seed=seed) for seed in range(2)]
    (tmp_path / "runs" / "evaluation-log.txt").mkdir()
    original = Accuracy.evaluate

    def evaluate(self: Accuracy, subject: Any, *args: Any) -> Any:
        if subject.seed == 0:
            raise RuntimeError("broken")
        return original(self, subject, *args)

    monkeypatch.setattr(Accuracy, "evaluate", evaluate)
    with pytest.raises(SystemExit) as stop, pytest.warns(UserWarning, match="a traceback is not kept"):
        cli.main(["evaluate", str(runs[0].parent), "--parts", "accuracy"])
    assert stop.value.code == 1
    assert "1 of 2 evaluations failed" in capsys.readouterr().err
