"""The display of an evaluation: what is being measured and how long it will take; plain lines without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from ..extras import require
from ..suite import Part
from ..suite.subjects import Candidate
from .progress import duration

__all__ = ["EvaluationBoard"]

# Without a terminal, a sign of life this often (seconds) when nothing ends.
_SILENCE = 60.0


class EvaluationBoard:
    """A `Watch` for `run_parts`; use it as a context manager.

    Args:
        candidates, parts: what will be evaluated.
    """

    def __init__(self, candidates: Sequence[Candidate], parts: Sequence[Part], *, file: TextIO | None = None) -> None:
        self.file = sys.stdout if file is None else file
        self.total, self.done = len(candidates) * len(parts), 0
        self.left = {part.name: len(candidates) for part in parts}
        self.seconds: dict[str, list[float]] = {part.name: [] for part in parts}
        self.now, self.words, self.began = "", "", time.monotonic()
        self.spoke = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> EvaluationBoard:
        if self.file.isatty():
            console = require("rich.console", "train").Console(file=self.file, highlight=False, markup=False)
            live = require("rich.live", "train").Live
            self._live = live(console=console, transient=True, refresh_per_second=4, get_renderable=self._render)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin(self, candidate: Candidate, part: Part) -> None:
        """A part begins."""
        self.now, self.words, self.began = f"{candidate.name}: {part.name}", "", time.monotonic()

    def say(self, words: str) -> None:
        """What the part is at."""
        self.words = words
        if self._live is None and time.monotonic() - self.spoke > _SILENCE:
            self._say(f"{self._count()}  {self.now}: {words}{self._estimate()}")

    def end(self, candidate: Candidate, part: Part, *, seconds: float | None, failure: str | None) -> None:
        """A part has ended; without seconds, its result was there already."""
        self.done += 1
        self.left[part.name] -= 1
        if seconds is not None:
            self.seconds[part.name].append(seconds)
        if failure is not None:
            self._say(f"{self._count()}  {self.now}: failed: {failure}")
        elif seconds is not None:
            self._say(f"{self._count()}  {self.now}: {duration(seconds)}{self._estimate()}")

    def remaining(self) -> float | None:
        """Estimated seconds until everything is measured; None while a part has not been timed yet."""
        if any(count and not self.seconds[name] for name, count in self.left.items()):
            return None
        times = {name: sum(seconds) / len(seconds) for name, seconds in self.seconds.items() if seconds}
        return sum(count * times[name] for name, count in self.left.items() if count)

    def _count(self) -> str:
        return f"{self.done:{len(str(self.total))}}/{self.total}"

    def _estimate(self) -> str:
        remaining = self.remaining()
        return f"; about {duration(remaining)} left" if remaining else ""

    def _say(self, line: str) -> None:
        self.spoke = time.monotonic()
        if self._live is None:
            print(line, file=self.file, flush=True)
        else:
            self._live.console.print(line, soft_wrap=True)

    def _render(self) -> Any:
        bar = require("rich.progress_bar", "train").ProgressBar(total=float(self.total), completed=self.done, width=24)
        table = require("rich.table", "train").Table.grid(padding=(0, 2))
        words = f"{self.now}  {self.words}  {duration(time.monotonic() - self.began)}"
        table.add_row(bar, f"{self._count()}{self._estimate()}")
        table.add_row("", require("rich.text", "train").Text(words, no_wrap=True, overflow="ellipsis"))
        return table
