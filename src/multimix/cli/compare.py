"""`multimix compare [RECIPE]`: train several methods over several seeds and report them side by side."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import torch

from .. import methods, models
from ..reports import write_report
from ..reports.evaluated import default_device, load_splits
from ..reports.plan import Plan, folder_name, read_plan
from ..reports.speed import measure_speed
from ..training import Config, RunDirectory
from ..training.rundir import refuse_changes
from .board import Board
from .console import show_results
from .options import parse
from .workers import Job, run_jobs

LOG = "log.txt"
METHODS = "erm,input-mixup,manifold-mixup,cutmix,multimix,dense-multimix"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `multimix compare RECIPE` takes, besides the options of `multimix train`."""

    methods: str = METHODS
    """Methods, separated by commas; quote those with options: erm,"multimix(alpha=0.1, n=500)"."""
    seeds: int = 3
    """Number of runs of every method, with seeds from --seed on."""
    out: Path | None = None
    """Folder of the comparison; default: runs/compare-RECIPE. The same command continues where it stopped."""
    jobs: int | None = None
    """Runs at the same time; default: one for each CPU core, or one on a GPU."""
    config: Config


def main(argv: list[str]) -> None:
    """Train what is not there yet, then print the table and write the page."""
    from .. import recipes

    recipe, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("digits", argv)
    options = parse(
        rest,
        Options(config=recipes.get(recipe)),
        prog=f"multimix compare {recipe}",
        description="Train several methods over several seeds, each run with the options of the recipe, then print a "
        "table and write summary.json, results.csv and report.html. The same command continues where it stopped.",
    )
    if options.config.method != recipes.get(recipe).method:
        raise ValueError(f"compare takes a list of methods: --methods erm,{options.config.method} instead of --method")
    plan = make_plan(options, recipe, command=shlex.join(["multimix", "compare", *argv]))
    jobs = [Job(dataclasses.replace(options.config, method=m, seed=s), out) for m, s, out in plan.jobs()]
    todo = [job for job in jobs if not _is_finished(job)]
    whole = _merged(plan)
    if todo:
        _check_setting(options.config)
        whole.write()
    failures: dict[Job, str] = {}
    try:
        if todo:
            failures = _train(todo, len(jobs), plan.folder / LOG, options)
        _report(whole, options)
    except KeyboardInterrupt:
        print(f"\nStopped; everything is saved. Continue with: {plan.command}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        for job, reason in failures.items():
            print(f"multimix: {job.name} failed: {reason}", file=sys.stderr)
    if failures:
        print(
            f"multimix: {len(failures)} of {len(jobs)} runs failed; tracebacks are in {plan.folder / LOG}. "
            "The same command tries them again",
            file=sys.stderr,
        )
        raise SystemExit(1)


def make_plan(options: Options, recipe: str, *, command: str) -> Plan:
    """Methods x seeds, checked.

    Raises:
        ValueError: an unknown method, one that is named twice, or a number that is not positive.
    """
    # Spaces mean nothing in a method's name, and two spellings must not become two rows.
    chosen = ["".join(method.split()).replace(",", ", ") for method in methods.split_list(options.methods)]
    if not chosen:
        raise ValueError(f"--methods is empty: name some, separated by commas, such as {METHODS}")
    folders: dict[str, str] = {}
    for method in chosen:
        methods.parse(method)
        other = folders.setdefault(folder_name(method), method)
        if other is not method:
            raise ValueError(
                f"--methods names {other} twice: leave out one"
                if other == method
                else f"--methods names {other} and {method}, which would share a folder: compare them apart"
            )
    for name in ("seeds", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    first = options.config.seed
    return Plan(
        folder=options.out or Path("runs") / f"compare-{recipe}",
        methods=chosen,
        seeds=list(range(first, first + options.seeds)),
        command=command,
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


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
    if run.config.is_file():
        stored, _ = run.read_config()
        refuse_changes(stored, job.config, job.out)
        if run.result.is_file() and stored.epochs > job.config.epochs:
            raise ValueError(
                f"the run in {job.out} is for {stored.epochs} epochs, not {job.config.epochs}: ask for as many, "
                "or choose another folder with --out"
            )
    return run.is_finished(job.config)


def _check_setting(config: Config) -> None:
    """Find out here, once, whether data and model can be had; downloads end up where the workers look for them."""
    splits = load_splits(config)
    models.build(
        config.model,
        num_classes=splits.num_classes,
        image_size=splits.image_size,
        pretrained=config.pretrained,
        generator=torch.Generator().manual_seed(0),
    )


def _train(jobs: Sequence[Job], total: int, log: Path, options: Options) -> dict[Job, str]:
    workers, threads = _workers(options, len(jobs))
    print(
        f"{total} runs, {total - len(jobs)} finished before; {workers} at a time, {threads} CPU "
        f"thread{'s' if threads > 1 else ''} each",
        flush=True,
    )
    try:
        with Board(jobs, total=total) as board:
            return run_jobs(
                jobs,
                workers=workers,
                threads=threads,
                log=log,
                on_progress=board.progress,
                on_end=board.end,
            )
    finally:
        if log.is_file() and not log.stat().st_size:
            log.unlink()


def _workers(options: Options, runs: int) -> tuple[int, int]:
    """How many runs at a time, and how many CPU threads for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = options.jobs or (cores if default_device(options.config) == "cpu" else 1)
    workers = min(wanted, runs)
    return workers, max(1, cores // workers)


def _report(plan: Plan, options: Options) -> None:
    """Measure the speed if it is not known yet, then the table and the page."""
    done = [m for m in plan.methods if any(RunDirectory(out).result.is_file() for _, _, out in plan.jobs([m]))]
    if not done:
        return
    if set(done) - set(plan.speed):
        plan = _with_speed(plan, done, options)
    print("Making the page ...", flush=True)
    summary = write_report([plan.folder], plan.folder)
    show_results(summary)
    print(f"\nPage: {plan.folder / 'report.html'} (also summary.json and results.csv)")


def _with_speed(plan: Plan, done: Sequence[str], options: Options) -> Plan:
    """The plan with the training speed of the methods that have a finished run, kept for later."""
    print("Measuring the training speed of the methods, side by side ...", flush=True)
    device: Literal["cpu", "cuda"] = default_device(options.config)
    _, threads = _workers(options, len(plan.methods) * len(plan.seeds))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        configs = {method: dataclasses.replace(options.config, method=method) for method in done}
        speed, conditions = measure_speed(configs, device=device)
    finally:
        torch.set_num_threads(before)
    plan = dataclasses.replace(plan, speed=speed, speed_conditions=conditions)
    plan.write()
    return plan
