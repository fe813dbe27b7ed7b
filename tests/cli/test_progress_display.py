"""The display of a running training, on a terminal and elsewhere."""

from __future__ import annotations

import io

from multimix.cli.progress import Display
from multimix.training import Progress


def report(batch: int, metrics: dict | None = None) -> Progress:
    return Progress(
        epoch=1, epochs=10, batch=batch, batches=4, loss=0.25, accuracy=0.5, seconds=1, remaining=75, metrics=metrics
    )


METRICS = {"val_loss": 0.5, "val_accuracy": 0.75, "test_loss": 0.6, "test_accuracy": 0.7}


def test_plain_output_is_one_line_per_epoch():
    file = io.StringIO()
    with Display(file) as display:
        display(report(1))
        display(report(4, METRICS))
    assert file.getvalue() == (
        "epoch  1/10  train loss 0.250  acc 50.00%  val loss 0.500 acc 75.00%  test loss 0.600 acc 70.00%  1m15s left\n"
    )


def test_a_terminal_shows_the_epoch_under_way(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = Terminal()
    with Display(file) as display:
        display(report(1))
        assert "batch 1/4" in file.getvalue()
        display(report(4, METRICS))
    assert "val loss 0.500 acc 75.00%" in file.getvalue()
