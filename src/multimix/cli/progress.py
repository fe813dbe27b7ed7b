"""The display of a running training: a live line on a terminal, one plain line per epoch elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from ..extras import require
from ..training.progress import Progress

__all__ = ["Display", "describe", "duration"]


class Display:
    """A progress callback for `multimix.training.train`; use it as a context manager.

    Every finished epoch leaves one line. On a terminal, a live line below shows the epoch under way, with the
    running loss and accuracy and the estimated time to the end.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = sys.stdout if file is None else file
        self._live: Any = None

    def __enter__(self) -> Display:
        if self.file.isatty():
            console = require("rich.console", "train").Console(file=self.file, highlight=False, markup=False)
            self._live = require("rich.live", "train").Live(console=console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        line = describe(progress)
        if self._live is None:
            if progress.metrics is not None:
                print(line, file=self.file, flush=True)
        elif progress.metrics is not None:
            self._live.update("")
            self._live.console.print(line)
        else:
            self._live.update(line, refresh=True)


def describe(progress: Progress) -> str:
    """One line about a report.

    >>> describe(Progress(epoch=3, epochs=60, batch=2, batches=4, loss=0.5, accuracy=None, seconds=10, remaining=95))
    'epoch  3/60  batch 2/4  train loss 0.500  1m35s left'
    """
    width = len(str(progress.epochs))
    parts = [f"epoch {progress.epoch:{width}}/{progress.epochs}"]
    if progress.metrics is None:
        parts.append(f"batch {progress.batch}/{progress.batches}")
    if progress.loss is not None:
        parts.append(f"train loss {progress.loss:.3f}")
    if progress.accuracy is not None:
        parts.append(f"acc {progress.accuracy:.2%}")
    for split in ("val", "test"):
        if progress.metrics is not None and f"{split}_accuracy" in progress.metrics:
            parts.append(
                f"{split} loss {progress.metrics[f'{split}_loss']:.3f} acc {progress.metrics[f'{split}_accuracy']:.2%}"
            )
    if progress.remaining is not None and progress.remaining > 0:
        parts.append(f"{duration(progress.remaining)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time span in its two largest units.

    >>> duration(5.2), duration(95), duration(7322), duration(200_000)
    ('5s', '1m35s', '2h02m', '2d07h')
    """
    whole = round(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02}{name}"
    return f"{whole}s"
