"""A training for a process of its own, which it may kill."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from multimix.training import Config, Interrupted, train


def kill_in_front_of_call(number: int) -> None:
    calls = 0

    def wrap(function):
        def wrapped(*args):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return wrapped

    os.fsync, os.replace = wrap(os.fsync), wrap(os.replace)


def run(
    config: Config,
    out: Path,
    log: Path,
    *,
    resume: bool = False,
    kill_at_call: int | None = None,
    signal_at_report: int | None = None,
    signal_name: str = "SIGINT",
) -> None:
    """Train, with what is said on stderr in `log`.

    `kill_at_call` kills the process in front of that call of os.fsync or os.replace; `signal_at_report` sends it a
    signal at that progress report.
    """
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` has it ignored, and training leaves that so
    torch.set_num_threads(1)
    if kill_at_call is not None:
        kill_in_front_of_call(kill_at_call)
    reports = 0

    def progress(_) -> None:
        nonlocal reports
        reports += 1
        if reports == signal_at_report:
            os.kill(os.getpid(), getattr(signal, signal_name))

    try:
        train(config, out, resume=resume, progress=progress)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
