"""The display of several trainings at once: a line for each and one for all; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TextIO

from ..extras import require
from ..training import Progress
from ..training.progress import duration
from .live import LiveBoard
from .workers import Job

__all__ = ["Board"]


class Board(LiveBoard):
    """Callbacks for `run_jobs`; use it as a context manager.

    Args:
        jobs: the runs still to be made.
        total: the number of runs of the whole comparison.
    """

    def __init__(self, jobs: Sequence[Job], *, total: int, file: TextIO | None = None) -> None:
        super().__init__(total, file)
        self.ended = total - len(jobs)
        self.share = {job: 0.0 for job in jobs}
        self.first: dict[Job, float] = {}
        self.latest: dict[Job, Progress] = {}
        self.began: float | None = None

    def progress(self, job: Job, progress: Progress) -> None:
        """A report of a run under way."""
        self.latest[job] = progress
        self.share[job] = (progress.epoch - 1 + progress.batch / progress.batches) / progress.epochs
        # What a resumed run had done before says nothing about the speed now, nor do workers that only start.
        self.first.setdefault(job, self.share[job])
        self.began = time.monotonic() if self.began is None else self.began
        if self._silent():
            self._say(f"{self.ended}/{self.total} runs done, {len(self.latest)} under way{self._left()}")

    def end(self, job: Job, failure: str | None) -> None:
        """A run has ended."""
        progress = self.latest.pop(job, None)
        self.share[job] = 1.0
        self.ended += 1
        count = self._count(self.ended)
        if failure is not None:
            self._say(f"{count}  {job.name}: failed: {failure}")
        elif progress is None or progress.metrics is None:
            self._say(f"{count}  {job.name}: finished{self._left()}")
        else:
            accuracy = f"{progress.metrics['test_accuracy']:.2%}"
            self._say(f"{count}  {job.name}: test accuracy {accuracy} in {duration(progress.seconds)}{self._left()}")

    def remaining(self) -> float | None:
        """Estimated seconds until all runs are done; None while there is nothing to go by."""
        done = sum(self.share[job] - start for job, start in self.first.items())
        left = sum(1 - share for share in self.share.values())
        return (time.monotonic() - self.began) * left / done if self.began is not None and done > 0 else None

    def _render(self) -> Any:
        table = require("rich.table", "train").Table.grid(padding=(0, 2))
        bar = require("rich.progress_bar", "train").ProgressBar
        table.add_column(max_width=48, no_wrap=True)
        for job, progress in list(self.latest.items()):
            text = f"epoch {progress.epoch}/{progress.epochs}"
            if progress.loss is not None:
                text += f"  loss {progress.loss:.3f}"
            table.add_row(job.name, bar(total=1.0, completed=self.share[job], width=24), text)
        done = self.total - sum(1 - share for share in self.share.values())
        text = f"{self.ended}/{self.total} runs{self._left()}"
        table.add_row("all", bar(total=float(self.total), completed=done, width=24), text)
        return table
