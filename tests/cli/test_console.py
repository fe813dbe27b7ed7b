"""Tables on terminals of any width, and readers that go away."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from multimix.cli import main
from multimix.cli.console import fitting_columns, show_table
from multimix.reports.cells import Cell, Table

TABLE = Table(
    ["method", "accuracy, %\nlast epoch", "calibration\nerror, %", "images/s"],
    [
        [
            Cell(name, name),
            Cell("97.95", 97.95, spread="± 0.38"),
            Cell("1.13", 1.13, spread="± 0.15"),
            Cell("4,505", 4505),
        ]
        for name in ("erm", "dense-multimix(alpha=0.1)")
    ],
)


@pytest.mark.parametrize("width", [10, 40, 45, 60, 80, 200])
def test_every_column_is_shown_once_and_blocks_fit_if_they_can(width: int) -> None:
    blocks = fitting_columns(TABLE, width)
    assert [column for block in blocks for column in block[1:]] == [1, 2, 3]
    assert all(block[0] == 0 for block in blocks)
    for block in blocks:
        widths = {0: 25, 1: 12, 2: 11, 3: 8}
        total = sum(widths[column] for column in block) + 2 * (len(block) - 1)
        assert total <= width or len(block) == 2


@pytest.mark.parametrize("columns", ["40", "50", "70", "80"])
def test_nothing_is_cut_off(columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    show_table(TABLE)
    shown = capsys.readouterr().out
    assert "…" not in shown
    for part in ("dense-multimix(alpha=0.1)", "97.95 ± 0.38", "1.13 ± 0.15", "4,505"):
        assert part in shown


def test_a_pipe_gets_one_line_for_each_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    show_table(TABLE)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 4
    assert lines[3].split() == ["dense-multimix(alpha=0.1)", "97.95", "±", "0.38", "1.13", "±", "0.15", "4,505"]


# `python -m multimix`, several times at the price of one import: each in a fork that has nobody to read its output.
FORKS = """
import io, json, os, runpy, sys

for argv, unbuffered in json.loads(sys.argv[1]):
    if argv == ["recipes"]:
        import multimix.cli.recipes  # after the others, which need no PyTorch and would all have to end it
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    sys.stdout = io.TextIOWrapper(open(1, "wb", 0 if unbuffered else -1), write_through=unbuffered)
    sys.argv[1:] = argv
    runpy.run_module("multimix", run_name="__main__")
    break
"""


def test_a_reader_that_goes_away_is_no_error() -> None:
    cases = [(argv, unbuffered) for argv in (["--help"], ["--version"], ["recipes"]) for unbuffered in (False, True)]
    done = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(cases)], capture_output=True, text=True, timeout=120, check=True
    )
    codes = done.stdout.split()
    assert len(codes) == len(cases)
    assert set(codes) == {"141"}
    assert done.stderr == ""


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    main(["recipes"])
    assert sys.stdout is not None
