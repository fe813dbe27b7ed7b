"""What the commands that train methods x seeds are asked for: what `compare`, `sweep` and `domains` share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

import torch.distributed as dist

from .. import methods, recipes
from ..files import refuse_file, refuse_unwritable
from ..reports.plan import Plan, folder_name
from ..training import Config
from ..training.setting import refuse_out_in_data
from .options import parse

__all__ = ["PlanOptions", "Request", "checked_methods", "read_request"]


MOST = 10_000
"""Runs of a method, or at a time: a slip of the finger beyond."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The options that the three commands share, besides those of `multimix train`."""

    methods: str
    """Methods, separated by commas; quote those with options: erm,"multimix(alpha=0.1, n=500)"."""
    seeds: int = 3
    """Number of runs of every method, with seeds from --seed on."""
    out: Path | None = None
    """Folder for all output; default: runs/COMMAND-RECIPE. The same command continues where it stopped."""
    jobs: int | None = None
    """Runs at the same time; default: one for each CPU core, or one for each GPU."""
    config: Config


O = TypeVar("O", bound=PlanOptions)  # noqa: E741


@dataclass(frozen=True)
class Request(Generic[O]):
    """A command line, read and checked."""

    options: O
    methods: Sequence[str]
    """Those of --methods, as they are called in tables and files."""
    folder: Path
    command: str
    """The whole command line."""

    def plan(self, *, folder: Path | None = None, methods: Sequence[str] | None = None) -> Plan:
        """Every method with every seed, begun now; by default of the methods and in the folder that were named."""
        first = self.options.config.seed
        return Plan(
            folder=self.folder if folder is None else folder,
            methods=list(self.methods if methods is None else methods),
            seeds=list(range(first, first + self.options.seeds)),
            command=self.command,
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
        )


def read_request(
    argv: Sequence[str], make: Callable[..., O], *, command: str, recipe: str, description: str
) -> Request[O]:
    """Read `[RECIPE] [OPTIONS]`.

    Args:
        make: the dataclass of the command's options; its default is that of the command.
        command: `compare`, say.
        recipe: what is trained when none is named.

    Raises:
        ValueError: an unknown recipe, option or method, --method, a method that is named twice, none at all, a number
            that is not positive, or several devices for a run.
        NotADirectoryError: --out is a file.
    """
    recipe, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (recipe, argv)
    if "--resume" in rest:
        raise ValueError(f"leave out --resume: {command} resumes by itself when the same command is run again")
    default = make(config=recipes.get(recipe))
    options = parse(rest, default, prog=f"multimix {command} {recipe}", description=description)
    if options.config.method != default.config.method:
        baseline = "erm," if default.methods.startswith("erm,") and options.config.method != "erm" else ""
        raise ValueError(
            f"{command} takes a list of methods: --methods {baseline}{options.config.method} instead of --method"
        )
    _refuse_several_processes(command, options.config)
    for name in ("seeds", "jobs"):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= MOST:
            raise ValueError(f"--{name} must be at {'least 1' if value < 1 else f'most {MOST}'}, got {value}")
    chosen = methods.split_list(options.methods)
    if not chosen:
        raise ValueError(f"--methods is empty: name some, separated by commas, such as {default.methods}")
    folder = options.out or Path("runs") / f"{command}-{recipe}"
    refuse_file(folder)
    refuse_unwritable(folder)
    refuse_out_in_data(options.config, folder)
    return Request(
        options,
        checked_methods(chosen),
        folder=folder,
        command=shlex.join(["multimix", command, *argv]),
    )


def _refuse_several_processes(command: str, config: Config) -> None:
    """A run here is trained by a worker, which has no command line of its own that could be started once more."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    if launched or config.devices > 1 or config.nodes > 1:
        got = "torchrun" if launched else f"--devices {config.devices} --nodes {config.nodes}"
        raise ValueError(
            f"{command} trains each run in one process, got {got}: leave that out, or train on several devices with "
            "multimix train, one run at a time"
        )


def checked_methods(chosen: Sequence[str]) -> list[str]:
    """Methods as they are called in tables and files, so that two spellings do not become two rows.

    Raises:
        ValueError: an unknown method, or one that is named twice.
    """
    chosen = [methods.spelled(method) for method in chosen]
    folders: dict[str, str] = {}
    for method in chosen:
        methods.parse(method)
        other = folders.setdefault(folder_name(method), method)
        if other is not method:
            raise ValueError(
                f"--methods names {other} twice: leave out one"
                if other == method
                else f"--methods names {other} and {method}, which would be stored in one folder: give each an --out"
            )
    return chosen
