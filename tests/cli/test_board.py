"""The display of several runs, on a terminal and elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from multimix import recipes
from multimix.cli import board
from multimix.cli.workers import Job
from multimix.training import Progress

JOBS = [Job(replace(recipes.get("digits"), method="erm", seed=seed), Path(f"run{seed}")) for seed in range(3)]


def report(epoch: int, batch: int, accuracy: float | None = None) -> Progress:
    metrics = None if accuracy is None else {"test_accuracy": accuracy}
    return Progress(
        epoch=epoch, epochs=10, batch=batch, batches=4, loss=0.5, accuracy=None, seconds=3.0, remaining=9.0,
        metrics=metrics,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_when_runs_end_and_when_all_is_silent(clock: list[float]) -> None:
    out = io.StringIO()
    with board.Board(JOBS, total=4, file=out) as shown:
        shown.progress(JOBS[0], report(1, 0))
        shown.progress(JOBS[0], report(5, 4))
        assert out.getvalue() == ""
        clock[0] += 61
        shown.progress(JOBS[1], report(1, 0))
        shown.progress(JOBS[0], report(10, 4, 0.975))
        shown.end(JOBS[0], None)
        shown.end(JOBS[1], "it broke")
        shown.end(JOBS[2], None)
    first, *rest = out.getvalue().splitlines()
    # Half a run of three took 61 seconds.
    assert first == "1/4 runs done, 2 under way; about 5m05s left"
    assert rest[0] == "2/4  erm, seed 0: test accuracy 97.50% in 3s; about 2m02s left"
    assert rest[1].startswith("3/4  erm, seed 1: failed: it broke")
    assert rest[2] == "4/4  erm, seed 2: finished"


def test_neither_what_a_resumed_run_had_done_nor_the_start_of_the_workers_counts(clock: list[float]) -> None:
    shown = board.Board(JOBS[:1], total=1, file=io.StringIO())
    assert shown.remaining() is None
    clock[0] += 30
    shown.progress(JOBS[0], report(9, 0))
    assert shown.remaining() is None
    clock[0] += 10
    shown.progress(JOBS[0], report(10, 0))
    assert shown.remaining() == pytest.approx(10)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with board.Board(JOBS, total=3, file=out) as shown:
        clock[0] += 61
        shown.progress(JOBS[0], report(3, 2))
        assert "0/3 runs done, 1 under way" in out.getvalue()


def test_a_terminal_shows_every_run_under_way_and_all_together(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with board.Board(JOBS, total=3, file=out) as shown:
        shown.progress(JOBS[0], report(3, 2))
        shown.progress(JOBS[2], report(7, 1))
        shown._live.refresh()
        text = out.getvalue()
        shown.end(JOBS[0], None)
    for part in ("erm, seed 0", "epoch 3/10", "erm, seed 2", "epoch 7/10", "0/3 runs"):
        assert part in text
    assert "erm, seed 1" not in text
    assert "1/3  erm, seed 0: finished" in out.getvalue()
