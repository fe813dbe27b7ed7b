"""Runs trainings in forked processes that can be killed, after paying for the imports once.

Reads one JSON job per line from standard input and answers with one line: the exit status of the process, negative
for a signal. `kill_at_call` makes the process kill itself (SIGKILL) in front of that call of os.fsync or os.replace,
`kill_after` makes this server kill it after so many seconds, `signal_at_report` sends it a signal at that progress
report.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import lightning_fabric  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

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


def run(job: dict) -> int:
    torch.set_num_threads(1)
    if "kill_at_call" in job:
        kill_in_front_of_call(job["kill_at_call"])
    reports = 0

    def progress(_) -> None:
        nonlocal reports
        reports += 1
        if reports == job.get("signal_at_report"):
            os.kill(os.getpid(), getattr(signal, job["signal"]))

    try:
        train(Config.from_json(job["config"]), Path(job["out"]), resume=job.get("resume", False), progress=progress)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` has it ignored, and training leaves that so
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with open(job["log"], "w") as log:
                    os.dup2(log.fileno(), 2)
                    status = run(job)
            finally:
                sys.stderr.flush()
                os._exit(status)
        if "kill_after" in job:
            timer = threading.Timer(job["kill_after"], os.kill, (pid, signal.SIGKILL))
            timer.start()
        _, status = os.waitpid(pid, 0)
        if "kill_after" in job:
            timer.cancel()
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
