"""`multimix sweep RECIPE --vary OPTION=VALUES...`: ablations, one option of a method at a time (Figure 4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import methods
from ..files import naming_another_folder, write_json, write_text
from ..reports import sweep as report
from ..reports.conditions import of_plan
from ..reports.page import now
from ..reports.plan import Plan, read_plan
from ..reports.style import standalone
from ..reports.sweep import Axis, Point, with_option
from ..training import Config
from .console import show_table
from .planned import run_plan
from .request import PlanOptions, checked_methods, read_request

RESULTS = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Options(PlanOptions):
    """What `multimix sweep RECIPE` takes, besides the options of `multimix train`."""

    methods: str = "multimix,dense-multimix"
    """Methods whose options are varied, separated by commas; quote those with options: multimix,"multimix(m=2)"."""
    vary: tuple[str, ...] = ()
    """What to vary, one option at a time: --vary layer=0,1,2,3,4 n=10,100,1000 m=2,16,128 "alpha=0.1,1,(0.5,2)"."""
    seeds: int = 3
    """Number of runs of every setting, with seeds from --seed on."""


def main(argv: list[str]) -> None:
    """Train what is not there yet, then print the table and draw the curves."""
    request = read_request(
        argv,
        Options,
        command="sweep",
        recipe="digits",
        description="Train methods with one option at a time changed, over several seeds, and plot the accuracy over "
        "each option as in Figure 4 of the paper: on the validation split where the recipe has one "
        "(--val-per-class), so that settings are not chosen by the test set. The same command continues where it "
        "stopped.",
    )
    options, bases = request.options, request.methods
    axes = read_axes(options.vary)
    chosen = [with_option(base, axis.option, value) for axis in axes for base in bases for value in axis.values]
    plan = request.plan(methods=checked_methods(list(dict.fromkeys([*bases, *chosen]))))
    try:
        run_plan(
            plan, options.config, jobs=options.jobs, report=lambda whole: write(whole, bases, axes, options.config)
        )
    except SystemExit as stop:
        if stop.code == 130:  # no other command makes the page of what is finished
            write(read_plan(plan.folder) or plan, bases, axes, options.config)
        raise


def read_axes(vary: Sequence[str]) -> list[Axis]:
    """What is varied, from `option=value,value,...`.

    Raises:
        ValueError: nothing, an option twice, or one without values.

    >>> read_axes(["alpha=0.1, (0.5, 2)"])
    [Axis(option='alpha', values=['0.1', '(0.5, 2)'])]
    """
    if not vary:
        raise ValueError('nothing to vary: add --vary n=10,100,1000 "alpha=0.1,1,(0.5,2)", say')
    axes = []
    for text in vary:
        option, equals, listed = text.partition("=")
        values = list(dict.fromkeys(methods.split_list(listed)))
        if not equals or not values or not option.strip().isidentifier():
            raise ValueError(f"--vary takes OPTION=VALUE,VALUE,..., got {text!r}")
        axes.append(Axis(option.strip(), values))
    names = [axis.option for axis in axes]
    if len(set(names)) < len(names):
        raise ValueError(f"--vary names an option twice: {', '.join(names)}")
    return axes


def _with_earlier(file: Path, bases: Sequence[str], axes: Sequence[Axis]) -> tuple[list[str], list[Axis]]:
    """Together with what was swept in this folder before, whose runs are there still."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        methods, vary = list(before["methods"]), {option: list(values) for option, values in before["vary"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        methods, vary = [], {}  # none, or of an earlier version
    for axis in axes:
        vary[axis.option] = _in_order(dict.fromkeys([*vary.get(axis.option, ()), *axis.values]))
    return list(dict.fromkeys([*methods, *bases])), [Axis(option, values) for option, values in vary.items()]


def _in_order(values: Iterable[str]) -> list[str]:
    """Numbers by size, anything else as it came.

    >>> _in_order(["10", "1e3", "100"]), _in_order(["1", "(0.5, 2)", "0.1"])
    (['10', '100', '1e3'], ['1', '(0.5, 2)', '0.1'])
    """
    values = list(values)
    try:
        return sorted(values, key=float)
    except ValueError:
        return values


def write(plan: Plan, bases: Sequence[str], axes: Sequence[Axis], config: Config) -> None:
    """The table on the terminal, `sweep.json`, `sweep.csv`, one figure for each option, and `sweep.html`."""
    finished = plan.finished()
    bases, axes = _with_earlier(plan.folder / RESULTS, bases, axes)
    key = report.metric(finished)
    runs = {method: [run for run in finished if run.config.method == method] for method in plan.methods}
    found = report.points(bases, axes, runs, config, key)
    if not any(point.accuracy for point in found):  # there may be runs of a comparison in the same folder
        return
    split: report.Split = "validation" if key == "val_accuracy" else "test"
    show_table(report.table(found, split=split))
    print(f"\n{report.headline(found, split=split)}")
    with naming_another_folder():
        _write_files(plan, bases, axes, config, found, split)


def _write_files(
    plan: Plan, bases: Sequence[str], axes: Sequence[Axis], config: Config, found: Sequence[Point], split: report.Split
) -> None:
    setting = {"data": config.data, "model": config.model, "epochs": config.epochs, "split": split}
    asked = {"methods": list(bases), "vary": {axis.option: list(axis.values) for axis in axes}}
    content = setting | {"command": plan.command} | asked | {"points": report.as_rows(found)}
    write_json(plan.folder / RESULTS, content)
    write_text(plan.folder / "sweep.csv", report.as_csv(found))
    panels = {axis.option: report.panel(axis, found, split=split) for axis in axes}
    for option, svg in panels.items():
        write_text(plan.folder / f"sweep-{option}.svg", standalone(svg))
    conditions = of_plan(config, plan.seeds, command=plan.command, made=now(), Split=split)
    write_text(plan.folder / "sweep.html", report.page(found, panels, split=split, conditions=conditions))
    print(f"\nPage: {plan.folder / 'sweep.html'} (also sweep.json, sweep.csv and sweep-OPTION.svg)")
