"""What displays of long work share: something live on a terminal, plain lines elsewhere, and the time that is left."""

from __future__ import annotations

import sys
import time
from typing import Any, Self, TextIO

from ..extras import require
from ..training.progress import duration

__all__ = ["LiveBoard", "LiveDisplay"]

# Without a terminal, a sign of life this often (seconds) when nothing ends.
_SILENCE = 60.0


class LiveDisplay:
    """Base of the displays, which are context managers: they define `_render`.

    Args:
        file: where to write; default: standard output.
        refresh_per_second: how often to draw anew; None: only when `_live.refresh` is called.
    """

    def __init__(self, file: TextIO | None, *, refresh_per_second: float | None) -> None:
        self.file = sys.stdout if file is None else file
        self._refresh_per_second = refresh_per_second
        self._live: Any = None

    def __enter__(self) -> Self:
        if not self.file.isatty():
            return self
        console = require("rich.console", "train").Console(file=self.file, highlight=False, markup=False)
        if not console.is_dumb_terminal:
            self._live = require("rich.live", "train").Live(
                console=console,
                transient=True,
                auto_refresh=self._refresh_per_second is not None,
                refresh_per_second=self._refresh_per_second or 1,
                get_renderable=self._render,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Any:
        """What is live on a terminal."""
        raise NotImplementedError(f"{type(self).__name__} must define _render")

    def _say(self, line: str) -> None:
        """A line that stays."""
        if self._live is None:
            print(line, file=self.file, flush=True)
        else:
            self._live.console.print(line, soft_wrap=True)


class LiveBoard(LiveDisplay):
    """Base of the boards, which define `remaining` too.

    Args:
        total: pieces of work, those too that were done before.
    """

    def __init__(self, total: int, file: TextIO | None, *, refresh_per_second: float | None = 4) -> None:
        super().__init__(file, refresh_per_second=refresh_per_second)
        self.total = total
        self.spoke = time.monotonic()

    def remaining(self) -> float | None:
        """Estimated seconds until everything is done; None while there is nothing to go by."""
        raise NotImplementedError(f"{type(self).__name__} must define remaining")

    def _count(self, number: int) -> str:
        return f"{number:{len(str(self.total))}}/{self.total}"

    def _drawn(self, done: int, number: int, words: str) -> Any:
        """How many pieces are done, the number of the one under way, and what it is at."""
        bar = require("rich.progress_bar", "train").ProgressBar(total=float(self.total), completed=done, width=24)
        table = require("rich.table", "train").Table.grid(padding=(0, 2))
        table.add_row(bar, f"{self._count(number)}{self._left()}")
        table.add_row("", require("rich.text", "train").Text(words, no_wrap=True, overflow="ellipsis"))
        return table

    def _left(self) -> str:
        remaining = self.remaining()
        return f"; about {duration(remaining)} left" if remaining else ""

    def _silent(self) -> bool:
        """Whether a reader without a terminal has waited long for a sign of life."""
        return self._live is None and time.monotonic() - self.spoke > _SILENCE

    def _say(self, line: str) -> None:
        self.spoke = time.monotonic()
        super()._say(line)
