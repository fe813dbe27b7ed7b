"""Train what a plan lacks, several runs at a time: what `compare`, `sweep` and `domains` share."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .. import methods
from ..files import locked
from ..reports.plan import Plan, read_plan
from ..reports.runs import Run
from ..training import Config, RunDirectory
from ..training.devices import default_device
from ..training.interrupt import as_ctrl_c
from ..training.optimizers import warn_of_unreached
from ..training.rundir import refuse_changes, refuse_other_data
from ..training.setting import build_model, load_splits, train_loader
from .board import Board
from .workers import Job, run_jobs

__all__ = ["run_plan", "workers_and_threads"]

LOG = "log.txt"


def run_plan(plan: Plan, config: Config, *, jobs: int | None, report: Callable[[Plan], None]) -> None:
    """Train the runs of `plan` that are not there yet, each with the options of `config`, then `report`.

    Whatever happens, the runs that are finished stay, and those under way can be continued.

    Args:
        jobs: runs at the same time; default: one for each CPU core, or one for each GPU.
        report: called with the plan together with what was planned in its folder before.

    Raises:
        ValueError: a run in the folder is another one.
        BlockingIOError: another process is training in the folder.
        SystemExit: 130 after Ctrl-C, 1 if runs failed.
    """
    if RunDirectory(plan.folder).config.is_file():
        raise ValueError(
            f"{plan.folder} is a run of `multimix train`, and several cannot be made in it: choose another folder with "
            "--out"
        )
    every = [Job(dataclasses.replace(config, method=m, seed=s), out) for m, s, out in plan.jobs()]
    todo = [job for job in every if not _is_finished(job)]
    try:
        with as_ctrl_c():  # also while the data are read, the speed is measured and the page is made
            if todo:
                warn_of_unreached(config)
                _refuse_other_data(_merged(plan).finished(), config)
                _check_setting(config, list(dict.fromkeys(job.config.method for job in todo)))
            plan.folder.mkdir(parents=True, exist_ok=True)
            with locked(plan.folder):
                _run(plan, todo, len(every), config, jobs, report)
    except KeyboardInterrupt:
        print(f"\nStopped; everything is saved. Continue with: {plan.command}", file=sys.stderr)
        raise SystemExit(130) from None


def _run(
    plan: Plan, todo: Sequence[Job], total: int, config: Config, jobs: int | None, report: Callable[[Plan], None]
) -> None:
    whole = _merged(plan)
    if todo:
        whole.write()
    failures: dict[Job, str] = {}
    try:
        if todo:
            failures = _train(todo, total, plan.folder / LOG, config, jobs)
        report(whole)
    finally:
        for job, reason in failures.items():
            print(f"multimix: {job.name} failed: {reason}", file=sys.stderr)
    if failures:
        print(
            f"multimix: {len(failures)} of {total} runs failed; tracebacks are in {plan.folder / LOG}. "
            "The same command tries them again",
            file=sys.stderr,
        )
        raise SystemExit(1)


def workers_and_threads(config: Config, jobs: int | None, runs: int) -> tuple[int, int]:
    """How many runs at a time, and how many CPU threads for each: not more than OMP_NUM_THREADS, where it is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = jobs or (cores if default_device(config) == "cpu" else torch.cuda.device_count())
    workers = min(wanted, runs)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return workers, max(1, min(cores // workers, int(limit) if limit.isdecimal() else cores))


def _merged(plan: Plan) -> Plan:
    """The plan together with what was planned in this folder before."""
    before = read_plan(plan.folder)
    if before is None:
        return plan
    return dataclasses.replace(
        before,
        methods=list(dict.fromkeys([*before.methods, *plan.methods])),
        seeds=sorted({*before.seeds, *plan.seeds}),
        command=plan.command,
    )


def _is_finished(job: Job) -> bool:
    """Whether the run is there already; ValueError if the one that is there is another."""
    run = RunDirectory(job.out)
    if run.config.is_file() and run.begun:
        stored, _ = run.read_config()
        refuse_changes(stored, job.config, job.out)
    return run.is_finished(job.config)


def _refuse_other_data(finished: Sequence[Run], config: Config) -> None:
    """Refuse to train beside runs on other data before anything is trained; afterwards nothing could be compared."""
    if not finished:
        return
    now = load_splits(config).identity()
    for run in finished:
        refuse_other_data(run.data_info, now, run.path)


def _check_setting(config: Config, chosen: Sequence[str]) -> None:
    """Find out here, once, whether data and model can be had, and whether each method can take a step on them;
    downloads end up where the workers look for them.

    Raises:
        ValueError, OSError, ImportError: what cannot be had, or the method that cannot run and why.
    """
    splits = load_splits(config)
    model = build_model(config, splits)
    few = dataclasses.replace(config, batch_size=min(8, config.batch_size), accumulate=1)
    images, targets, extras = next(iter(train_loader(few, splits).batches(0)))
    for text in chosen:
        method = methods.parse(text)
        try:
            method.setup(model)
            method.check_extras(splits.train.extras)
            # Which of several methods a single step takes is left to chance.
            for _, part in method.choices():
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "n=math.inf is inaccurate")  # for these few images
                    part(model, images, targets, torch.Generator(), **part.wanted(extras))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{text} cannot be trained here: {error}") from None


def _train(todo: Sequence[Job], total: int, log: Path, config: Config, jobs: int | None) -> dict[Job, str]:
    workers, threads = workers_and_threads(config, jobs, len(todo))
    print(
        f"{total} runs, {total - len(todo)} finished before; {workers} at a time, {threads} CPU "
        f"thread{'s' if threads > 1 else ''} each",
        flush=True,
    )
    try:
        with Board(todo, total=total) as board:
            return run_jobs(
                todo,
                workers=workers,
                threads=threads,
                log=log,
                on_progress=board.progress,
                on_end=board.end,
            )
    finally:
        if log.is_file() and not log.stat().st_size:
            log.unlink()
