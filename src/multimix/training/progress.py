"""`Progress`: what a run reports while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .meters import Totals

__all__ = ["Progress", "Reporter", "duration"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report of a running training.

    Reports come a few times a second at most, and once more at the end of every epoch, with `metrics`.
    """

    epoch: int
    """The present epoch, from 1."""
    epochs: int
    """Epochs of the whole run."""
    batch: int
    """Batches done in this epoch."""
    batches: int
    """Batches of an epoch."""
    loss: float | None
    """Mean training loss of the epoch so far; None while it is not known."""
    accuracy: float | None
    """Training accuracy of the epoch so far, a fraction; None where the method has no clean logits."""
    seconds: float
    """Time since this process began training."""
    remaining: float | None
    """Estimated seconds to the end of the run; None while there is nothing to go by."""
    metrics: Mapping[str, Any] | None = None
    """The line of metrics.jsonl, in the last report of an epoch."""


class Reporter:
    """Calls `callback` with a `Progress`, not more often than it is worth."""

    INTERVAL = 0.25

    def __init__(self, callback: Callable[[Progress], None] | None, *, epochs: int, batches: int, done: int) -> None:
        self.callback = callback
        self.epochs, self.batches, self.begun_at = epochs, batches, done
        self.started = time.perf_counter()
        self._next = self.started

    def due(self) -> bool:
        """Whether enough time has passed since the last report."""
        now = time.perf_counter()
        if now < self._next:
            return False
        self._next = now + self.INTERVAL
        return True

    def report(self, epoch: int, batch: int, totals: Totals, metrics: Mapping[str, Any] | None = None) -> None:
        """Report that `batch` batches of `epoch` (from 0) are done."""
        if self.callback is None:
            return
        seconds = time.perf_counter() - self.started
        done = epoch * self.batches + batch - self.begun_at
        left = self.epochs * self.batches - self.begun_at - done
        self.callback(
            Progress(
                epoch=epoch + 1,
                epochs=self.epochs,
                batch=batch,
                batches=self.batches,
                loss=totals.mean_loss,
                accuracy=totals.accuracy,
                seconds=seconds,
                remaining=seconds / done * left if done else None,
                metrics=metrics,
            )
        )


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
