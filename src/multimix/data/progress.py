"""A progress bar with an estimate, for what turns out to take long."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from ..extras import require

__all__ = ["track"]

PATIENCE = 2.0  # seconds before a bar appears


def track(done: Iterable[int], total: int, description: str) -> Iterator[None]:
    """Consume an iterable of amounts done. After two seconds, a bar on stderr shows how far it is of `total`."""
    rich = require("rich.progress", "train")
    console = require("rich.console", "train").Console(stderr=True)
    began, finished, bar, task = time.monotonic(), 0, None, None
    try:
        for amount in done:
            finished += amount
            if bar is None and time.monotonic() - began > PATIENCE:
                columns = (*rich.Progress.get_default_columns(), rich.MofNCompleteColumn())
                bar = rich.Progress(*columns, console=console, transient=True)
                task = bar.add_task(description, total=total)
                bar.start()
            if bar is not None:
                bar.update(task, completed=finished)
            yield
    finally:
        if bar is not None:
            bar.stop()
