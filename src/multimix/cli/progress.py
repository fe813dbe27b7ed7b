"""The display of a running training: a live line on a terminal, one plain line per epoch elsewhere."""

from __future__ import annotations

from typing import TextIO

from ..training.progress import Progress, duration
from .live import LiveDisplay

__all__ = ["Display", "describe"]


class Display(LiveDisplay):
    """A progress callback for `multimix.training.train`; use it as a context manager.

    Every finished epoch leaves one line. On a terminal, a live line below shows the epoch under way, with the
    running loss and accuracy and the estimated time to the end.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        # No thread that draws beside a training, which may fork its loading processes at any moment.
        super().__init__(file, refresh_per_second=None)
        self._line = ""

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        line, finished = describe(progress), progress.metrics is not None
        self._line = "" if finished else line
        if self._live is not None:
            self._live.refresh()
        if finished:
            self._say(line)

    def _render(self) -> str:
        return self._line


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
