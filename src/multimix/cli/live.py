"""What displays of long work share: a live table on a terminal, plain lines elsewhere, and the time that is left."""

from __future__ import annotations

import sys
import time
from typing import Any, Self, TextIO

from ..extras import require
from .progress import duration

__all__ = ["LiveBoard"]

# Without a terminal, a sign of life this often (seconds) when nothing ends.
_SILENCE = 60.0


class LiveBoard:
    """Base of the boards, which are context managers: they define `remaining` and `_render`.

    Args:
        file: where to write; default: standard output.
    """

    def __init__(self, file: TextIO | None) -> None:
        self.file = sys.stdout if file is None else file
        self.spoke = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> Self:
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

    def remaining(self) -> float | None:
        """Estimated seconds until everything is done; None while there is nothing to go by."""
        raise NotImplementedError(f"{type(self).__name__} must define remaining")

    def _render(self) -> Any:
        """The table on a terminal."""
        raise NotImplementedError(f"{type(self).__name__} must define _render")

    def _left(self) -> str:
        remaining = self.remaining()
        return f"; about {duration(remaining)} left" if remaining else ""

    def _silent(self) -> bool:
        """Whether a reader without a terminal has waited long for a sign of life."""
        return self._live is None and time.monotonic() - self.spoke > _SILENCE

    def _say(self, line: str) -> None:
        self.spoke = time.monotonic()
        if self._live is None:
            print(line, file=self.file, flush=True)
        else:
            self._live.console.print(line, soft_wrap=True)
