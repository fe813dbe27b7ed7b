"""Several trainings at once, in processes that are started once and then take one run after the other.

Workers are spawned (a forked process cannot use CUDA) and live on, because importing everything takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ..errors import failure_reason
from ..training import Config, Progress, train
from ..training.devices import default_device
from ..training.interrupt import as_ctrl_c, held_back

__all__ = ["Job", "run_jobs"]

# Saving a checkpoint on the way out may take a while for a large model.
_PATIENCE = 120.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Job:
    """One run to make, or to go on with."""

    config: Config
    out: Path

    @property
    def name(self) -> str:
        return f"{self.config.method}, seed {self.config.seed}"


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    gpu: str | None = None
    """The one that it sees, as CUDA_VISIBLE_DEVICES names it; None: all."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    threads: int,
    log: Path,
    on_progress: Callable[[Job, Progress], None],
    on_end: Callable[[Job, str | None], None],
) -> dict[Job, str]:
    """Train all `jobs`, `workers` at a time, each with `threads` CPU threads.

    Args:
        log: what the runs print, and the tracebacks of failures, are appended to this file.
        on_progress: called here with every report of a run.
        on_end: called here when a run has ended, with what went wrong, or None.

    Returns:
        What went wrong, by job. A failed run, or a worker that is killed, does not keep the others from going on.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM. All runs under way have been told to save and stop, and have ended.
    """
    waiting = list(reversed(jobs))
    gpus = _gpus(jobs[0].config) if jobs else []
    failures: dict[Job, str] = {}
    crew: list[_Worker] = []
    with as_ctrl_c(), _stopped_after(crew):
        while waiting or any(worker.job for worker in crew):
            busy = sum(worker.job is not None for worker in crew)
            while len(crew) < min(workers, busy + len(waiting)):
                with held_back():  # a process that is interrupted while it is started would be known to nobody
                    crew.append(_start(threads, log, _least_used(gpus, crew)))
            for worker in crew:
                if worker.job is None and waiting:
                    worker.job = waiting.pop()
                    worker.connection.send((worker.job.config, worker.job.out))
            for ready in wait([worker.connection for worker in crew]):
                worker = next(worker for worker in crew if worker.connection is ready)
                kind, content = _receive(worker)
                if kind == "progress" and worker.job is not None:
                    on_progress(worker.job, content)
                    continue
                if kind == "died":
                    crew.remove(worker)
                    worker.connection.close()
                    # The next run needs the memory of the GPU that this one still holds.
                    worker.process.join(_PATIENCE)
                    worker.process.kill()
                if worker.job is not None:
                    if content is not None:
                        failures[worker.job] = content
                    on_end(worker.job, content)
                    worker.job = None
    return failures


@contextmanager
def _stopped_after(crew: Sequence[_Worker]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if any(worker.job for worker in crew):
            print("\nStopping: the runs under way finish their step and are saved ...", file=sys.stderr, flush=True)
        raise
    finally:
        _stop(crew)


def _gpus(config: Config) -> list[str]:
    """Names of the GPUs for runs of `config`; none where these train elsewhere, or have all the same."""
    if default_device(config) == "cpu":
        return []
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    # CUDA takes those up to the first that is not there; of the parts that MIG makes, a process counts one.
    listed = named if any(name.startswith("MIG-") for name in named) else (named or [*map(str, range(count))])[:count]
    return listed if len(listed) > 1 else []


def _least_used(gpus: Sequence[str], crew: Sequence[_Worker]) -> str | None:
    return min(gpus, key=lambda gpu: sum(worker.gpu == gpu for worker in crew), default=None)


def _start(threads: int, log: Path, gpu: str | None) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Not a daemon, which may not start the processes that read images; `_stop` ends it in any case.
    process = context.Process(target=_work, args=(theirs, threads, log, multiprocessing.get_start_method(), gpu))
    process.start()
    theirs.close()
    return _Worker(process, ours, gpu=gpu)


def _receive(worker: _Worker) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = worker.connection.recv()
        return message
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        reason = f"by signal {-code} (out of memory?)" if code < 0 else f"with exit code {code}"
        return "died", f"its process ended {reason}"


def _stop(crew: Sequence[_Worker]) -> None:
    """End all workers: at once when idle, after they have saved when busy."""
    for worker in crew:
        if worker.job is None:
            worker.connection.close()  # it returns, and so does what it started
        else:
            # Inside `train`, SIGTERM means: finish the step, save, stop. Outside, it ends the process.
            worker.process.terminate()
    deadline = time.monotonic() + _PATIENCE
    try:
        for worker in crew:
            while worker.process.is_alive() and time.monotonic() < deadline:
                if worker.job is None:
                    worker.process.join(0.05)
                elif worker.connection.poll(0.05) and _receive(worker)[0] == "end":
                    # It was past its last look at the signal, and waits for another run.
                    worker.job = None
                    worker.connection.close()
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


def _follow_parent() -> None:
    """Stop as on SIGTERM when the parent has been killed, or this process would train on and hold its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _work(connection: Connection, threads: int, log: Path, start_method: str, gpu: str | None) -> None:
    """The life of a worker: receive a run, train it, report, until the parent is gone."""
    if gpu is not None:
        os.environ[_VISIBLE] = gpu  # read when CUDA is first used
    # A spawned process would spawn its own, and each of those that read images would import everything again.
    multiprocessing.set_start_method(start_method, force=True)
    if hasattr(os, "setsid"):
        # Ctrl-C in the terminal goes to the parent alone, which tells everyone.
        os.setsid()
    with log.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(threads)
    while True:
        try:
            config, out = connection.recv()
        except EOFError:
            return
        try:
            train(config, out, resume=True, progress=lambda progress: connection.send(("progress", progress)))
            connection.send(("end", None))
        except (KeyboardInterrupt, ConnectionError):
            return  # told to stop, and saved; or the parent is gone
        except Exception as error:
            print(f"{config.method}, seed {config.seed}:", file=sys.stderr)
            traceback.print_exc()
            # A failed assertion on a GPU makes it unusable for this process, and every run after it would fail too.
            last = torch.cuda.is_initialized()
            again = "Try again with fewer --workers or --jobs"
            connection.send(("died" if last else "end", failure_reason(error, again=again)))
            if last:
                return
