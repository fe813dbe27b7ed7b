"""The display of methods being timed, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from multimix.cli import speed_board
from multimix.cli.speed_board import SpeedBoard
from multimix.reports.plan import Speed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(speed_board.time, "monotonic", lambda: now[0])
    return now


def test_a_line_for_every_method_and_when_all_is_silent(clock: list[float]) -> None:
    out = io.StringIO()
    with SpeedBoard(4, file=out) as board:
        assert board.remaining() is None
        board.tell("erm", None)
        clock[0] += 20
        assert board.remaining() is None  # the first steps are under way
        board.tell("erm", 80.0)
        assert board.remaining() == 80 + 3 * 100
        clock[0] += 50
        board.tell("erm", 30.0)
        clock[0] += 30
        board.tell("erm", 0.0)
        board.end("erm", Speed(1234.5, 1.0, 1))
        board.tell("cutmix", None)
        clock[0] += 10
        assert board.remaining() == 90 + 2 * 100
        board.tell("multimix", None)  # the one before could not be timed
        board.tell("multimix", 0.0)
        board.end("multimix", Speed(7.0, 0.957, 9))
    assert out.getvalue().splitlines() == [
        "1/4  timing erm; about 5m30s left",
        "1/4  erm: 1,234 images/s in 1 round; about 5m00s left",
        "3/4  multimix: 0.96 of ERM's speed in 9 rounds; about 55s left",
    ]


def test_a_terminal_is_drawn_between_turns_only(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with SpeedBoard(2, file=out) as board:
        assert not board._live.auto_refresh
        board.tell("erm", 5.0)
        assert "1/2; about 10s left" in out.getvalue()
        board.end("erm", Speed(7.0, 1.0, 3))
    assert "1/2  erm: 7 images/s in 3 rounds" in out.getvalue()
