"""`multimix compare [RECIPE]`: train several methods over several seeds and report them side by side."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import one_line
from ..reports import summarize, write_page
from ..reports.plan import Plan
from ..reports.speed import how_measured, measure_speed, side_by_side, speed_setting
from ..training.devices import default_device
from .console import show_results
from .planned import run_plan, workers_and_threads
from .request import PlanOptions, read_request
from .speed_board import SpeedBoard

METHODS = "erm,input-mixup,manifold-mixup,cutmix,multimix,multimix-small-alpha,dense-multimix"


@dataclass(frozen=True, kw_only=True)
class Options(PlanOptions):
    """What `multimix compare RECIPE` takes, besides the options of `multimix train`."""

    methods: str = METHODS
    """Methods, separated by commas; quote those with options: erm,"multimix(alpha=0.1, n=500)"."""


def main(argv: list[str]) -> None:
    """Train what is not there yet, then print the table and write the page."""
    request = read_request(
        argv,
        Options,
        command="compare",
        recipe="digits",
        description="Train several methods over several seeds, each run with the options of the recipe, then print a "
        "table and write summary.json, results.csv and report.html. The same command continues where it stopped.",
    )
    options = request.options
    run_plan(request.plan(), options.config, jobs=options.jobs, report=lambda whole: _report(whole, options))


def _report(plan: Plan, options: Options) -> None:
    """Measure the speed of methods whose is not known yet, then the table and the page."""
    done = [method for method in plan.methods if plan.ended([method])]
    if not done:
        return
    if set(done) - set(plan.speed):
        plan = _with_speed(plan, done, options)
    summary = summarize([plan.folder])
    show_results(summary)  # before the page, which may fail
    print("\nMaking the page ...", flush=True)
    write_page(summary, plan.folder)
    print(f"Page: {plan.folder / 'report.html'} (also summary.json and results.csv)")


def _with_speed(plan: Plan, done: Sequence[str], options: Options) -> Plan:
    """The plan with the training speed of the methods that have a finished run, each kept as soon as it is known; as
    far as that can be measured, since the runs are worth their table all the same.

    Each method takes turns with ERM alone, so one that comes later is measured without the others; all are, where the
    machine or the way in which steps are taken is another than theirs.
    """
    print("Measuring the training speed of the methods, side by side ...", flush=True)
    config = options.config
    device: Literal["cpu", "cuda"] = default_device(config)
    _, threads = workers_and_threads(config, options.jobs, len(plan.methods) * len(plan.seeds))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        setting = speed_setting(config, device)
        speeds = dict(plan.speed) if plan.speed_setting == setting else {}
        missing = [method for method in done if method not in speeds]
        with SpeedBoard(len(missing)) as board:
            for method, speed in measure_speed(config, missing, device=device, tell=board.tell):
                speeds = side_by_side({**speeds, method: speed})
                how = how_measured(config, speeds, device)
                plan = dataclasses.replace(plan, speed=speeds, speed_conditions=how, speed_setting=setting)
                plan.write()
                board.end(method, speed)
    except Exception as error:  # the GPU of others is full, a library is gone
        warnings.warn(f"the training speed is not measured: {one_line(error)}", stacklevel=2)
    finally:
        torch.set_num_threads(before)
    return plan
