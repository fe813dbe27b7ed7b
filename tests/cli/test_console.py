"""Tables on terminals of any width, and readers that go away."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from multimix.cli import main
from multimix.cli.console import fitting_columns, show_table
from multimix.reports.tables import Cell, Table

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


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["recipes"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(argv: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "multimix", *argv],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(writer)
    assert done.returncode in (1, 141)  # rich, which prints the table, ends with 1
    assert done.stderr == ""


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    main(["recipes"])
    assert sys.stdout is not None
