"""`multimix domains [RECIPE]`: hold out every domain in turn, and report the accuracy on each and their average."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.domains import domain_names
from ..files import naming_another_folder, write_json, write_text
from ..reports import domains as report
from ..reports.conditions import of_plan
from ..reports.page import now
from ..reports.plan import Plan, folder_name, read_plan
from ..training import Config
from ..training.interrupt import as_ctrl_c
from .console import show_table
from .planned import run_plan
from .request import PlanOptions, read_request


@dataclass(frozen=True, kw_only=True)
class Options(PlanOptions):
    """What `multimix domains RECIPE` takes, besides the options of `multimix train`."""

    methods: str = "erm,input-mixup,daml,multimix"
    """Methods, separated by commas; quote those with options: erm,"daml(domains=5)"."""
    seeds: int = 3
    """Number of runs of every method on every domain, with seeds from --seed on."""


def main(argv: list[str]) -> None:
    """Train what is not there yet, domain by domain, then print the table."""
    request = read_request(
        argv,
        Options,
        command="domains",
        recipe="office-home",
        description="Train on all domains but one and test on that one, for every domain, method and seed, then "
        "print the accuracies and their average. The same command continues where it stopped.",
    )
    config = request.options.config
    if config.data != "domains" or config.data_root is None:
        raise ValueError("domains needs a folder that holds DOMAIN/CLASS/IMAGE: give --data domains --data-root DIR")
    if any(argument.split("=")[0].replace("_", "-") == "--held-out" for argument in argv):
        raise ValueError("domains holds out every domain in turn: leave out --held-out, or use multimix train")
    folders = _folders(domain_names(config.data_root))
    plans = {name: request.plan(folder=request.folder / folder) for name, folder in folders.items()}
    _run(plans, config, request.options.jobs, request.folder)


def _folders(domains: Sequence[str]) -> dict[str, str]:
    """The folder of each domain's runs.

    >>> _folders(["Clip art", "Écriture"])
    {'Clip art': 'Clip-art', 'Écriture': 'Écriture'}
    """
    folders = {name: folder_name(name) for name in domains}
    for folder in folders.values():
        alike = [other for other in domains if folders[other].casefold() == folder.casefold()]
        if len(alike) > 1 or not folder:
            raise ValueError(
                f"the runs of {' and '.join(map(repr, alike))} would be kept in one folder, {folder!r}: rename the "
                "folder of a domain so that its letters and digits tell it apart"
            )
    return folders


def _run(plans: dict[str, Plan], config: Config, jobs: int | None, folder: Path) -> None:
    """One domain after the other; a failed run keeps neither the others nor the table from being made."""
    failed, ours = False, True
    with as_ctrl_c():
        try:
            for name, plan in plans.items():
                print(f"Held out: {name}", flush=True)
                try:
                    run_plan(plan, dataclasses.replace(config, held_out=name), jobs=jobs, report=lambda whole: None)
                except SystemExit as stop:
                    if stop.code != 1:
                        raise
                    failed = True
        except BlockingIOError:
            ours = False  # another process is at it, and writes the page
            raise
        finally:
            if ours:
                with naming_another_folder():
                    _write(plans, config, folder)
    if failed:
        raise SystemExit(1)


def _write(plans: dict[str, Plan], config: Config, folder: Path) -> None:
    # With what was asked for in this folder before: the runs are there still.
    plans = {name: read_plan(plan.folder) or plan for name, plan in plans.items()}
    runs = [run for plan in plans.values() for run in plan.finished()]
    if not runs:
        return
    chosen = list(dict.fromkeys(method for plan in plans.values() for method in plan.methods))
    found = report.rows(chosen, list(plans), runs)
    show_table(report.table(found))
    print("", *report.headline(found), sep="\n")
    write_json(folder / "domains.json", {"split": "test", "epoch": "last", "methods": report.as_json(found)})
    write_text(folder / "domains.csv", report.as_csv(runs))
    first = next(iter(plans.values()))
    seeds = sorted({seed for plan in plans.values() for seed in plan.seeds})
    conditions = of_plan(config, seeds, command=first.command, made=now())
    write_text(folder / "domains.html", report.page(found, conditions=conditions))
    print(
        f"\nPage: {folder / 'domains.html'} (also domains.json and domains.csv; `multimix report {folder}/DOMAIN` "
        "makes a page of one)"
    )
