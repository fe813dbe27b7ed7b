"""The display of an evaluation: what is being measured and how long it will take; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO

from ..suite import Part
from ..suite.subjects import Candidate
from ..training.progress import duration
from .live import LiveBoard

__all__ = ["EvaluationBoard"]


class EvaluationBoard(LiveBoard):
    """A `Watch` for `run_parts`; use it as a context manager.

    Args:
        total: evaluations, those whose results are there already too.
        missing: by name of the part, how many have to be computed.
    """

    def __init__(self, total: int, missing: Mapping[str, int], *, file: TextIO | None = None) -> None:
        super().__init__(total, file)
        self.done = 0
        self.left = dict(missing)
        self.seconds: dict[str, list[float]] = {name: [] for name in missing}
        self.now, self.words, self.began = "", "", time.monotonic()

    def begin(self, candidate: Candidate, part: Part) -> None:
        """A part begins."""
        self.now, self.words, self.began = f"{candidate.name}: {part.name}", "", time.monotonic()

    def say(self, words: str) -> None:
        """What the part is at."""
        self.words = words
        if self._silent():
            self._say(f"{self._count(self.done)}  {self.now}: {words}{self._left()}")

    def end(self, candidate: Candidate, part: Part, *, seconds: float | None, failure: str | None) -> None:
        """A part has ended; without seconds, its result was there already."""
        self.done += 1
        if seconds is not None:
            self.left[part.name] -= 1
            self.seconds[part.name].append(seconds)
        if failure is not None:
            self._say(f"{self._count(self.done)}  {self.now}: failed: {failure}")
        elif seconds is not None:
            self._say(f"{self._count(self.done)}  {self.now}: {duration(seconds)}{self._left()}")

    def remaining(self) -> float | None:
        """Estimated seconds until the parts that have been timed are measured for all; None before the first."""
        times = {name: sum(seconds) / len(seconds) for name, seconds in self.seconds.items() if seconds}
        return sum(self.left[name] * time for name, time in times.items()) if times else None

    def _left(self) -> str:
        untimed = [name for name, count in self.left.items() if count and not self.seconds[name]]
        remaining = self.remaining()
        if not remaining:
            return ""
        return f"; {'more than' if untimed else 'about'} {duration(remaining)} left"

    def _render(self) -> Any:
        words = f"{self.now}  {self.words}  {duration(time.monotonic() - self.began)}"
        return self._drawn(self.done, self.done, words)
