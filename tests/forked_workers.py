"""The workers of `multimix compare` and the like at the price of a fork instead of all their imports, or of none.

Real workers are spawned, as those of `tests/cli/test_readme.py` are.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from types import SimpleNamespace

import pytest

from multimix.cli import workers
from multimix.cli.workers import Job
from multimix.training import train


def forkserver() -> ForkServerContext:
    """Starts processes from a server that has imported everything once; what that is, tests/conftest.py says."""
    return multiprocessing.get_context("forkserver")


def fork_workers(patch: pytest.MonkeyPatch) -> None:
    """Start workers from `forkserver`, in this process and until `patch` is undone."""
    context = forkserver()
    stand_in = SimpleNamespace(get_context=lambda method: context, get_start_method=multiprocessing.get_start_method)
    patch.setattr(workers, "multiprocessing", stand_in)


def train_here(jobs: list[Job], **_: object) -> dict[Job, str]:
    """In place of `run_jobs`: all of them in this process, one after the other."""
    for job in jobs:
        train(job.config, job.out)
    return {}


def stop_here(jobs: list[Job], **_: object) -> dict[Job, str]:
    """In place of `run_jobs`: Ctrl-C before the first has begun."""
    raise KeyboardInterrupt
