"""The display of methods being timed, one after the other; plain lines where there is no terminal."""

from __future__ import annotations

import time
from statistics import fmean
from typing import Any, TextIO

from ..reports.plan import Speed
from ..reports.runs import BASELINE
from ..training.progress import duration
from .live import LiveBoard

__all__ = ["SpeedBoard"]


class SpeedBoard(LiveBoard):
    """Callbacks for `measure_speed`; use it as a context manager.

    Args:
        total: methods to be timed.
    """

    def __init__(self, total: int, *, file: TextIO | None = None) -> None:
        # No thread that draws beside what is timed: only between two turns.
        super().__init__(total, file, refresh_per_second=None)
        self.now = ""
        self.left: float | None = None
        self.began = self.told = 0.0
        self.seconds: list[float] = []
        """What the methods before this one have taken."""

    def tell(self, method: str, left: float | None) -> None:
        """`method` is being timed, for `left` more seconds."""
        self.told = time.monotonic()
        if method != self.now:
            if self.now:
                self.seconds.append(self.told - self.began)
            self.now, self.began = method, self.told
        self.left = left
        if self._live is not None:
            self._live.refresh()
        if self._silent():
            self._say(f"{self._count(self._number())}  timing {method}{self._left()}")

    def end(self, method: str, speed: Speed) -> None:
        """The speed of a method is known."""
        rounds = f" in {speed.rounds} round{'' if speed.rounds == 1 else 's'}" if speed.rounds else ""
        known = (
            f"{speed.images_per_second:,.0f} images/s" if method == BASELINE else f"{speed.relative:.2f} of ERM's speed"
        )
        self._say(f"{self._count(self._number())}  {method}: {known}{rounds}{self._left()}")

    def remaining(self) -> float | None:
        """Estimated seconds until all methods are timed; None while there is nothing to go by."""
        if not self.now or (self.left is None and not self.seconds):
            return None
        now = time.monotonic()
        # Before the first has ended: what it will have taken.
        each = fmean(self.seconds) if self.seconds else self.told - self.began + (self.left or 0.0)
        this = each - (now - self.began) if self.left is None else self.left - (now - self.told)
        return max(0.0, this) + each * (self.total - len(self.seconds) - 1)

    def _number(self) -> int:
        return len(self.seconds) + bool(self.now)

    def _render(self) -> Any:
        words = f"{self.now}, {duration(time.monotonic() - self.began)}" if self.now else ""
        return self._drawn(len(self.seconds), self._number(), words)
