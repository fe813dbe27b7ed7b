"""`multimix train RECIPE`: train one model with one method."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import recipes
from ..reports.plan import folder_name
from ..training import Config, Interrupted, RunDirectory, train
from ..training.devices import leave_process_group
from . import is_first_process
from .options import parse
from .progress import Display

_USAGE = """usage: multimix train RECIPE [--method METHOD] [--epochs N] [--seed K] [--out DIR] [--resume] [OPTIONS]

`multimix train RECIPE --help` lists all options with the recipe's values; `multimix recipes` describes the recipes:
  {names}"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `multimix train RECIPE` takes."""

    out: Path | None = None
    """Run directory; default: runs/RECIPE-METHOD-seedSEED."""
    resume: bool = False
    """Go on from the last checkpoint in the run directory; start if there is none."""
    config: Config


def main(argv: list[str]) -> None:
    """Train, with a line of progress for every epoch, then say where everything is."""
    if argv and argv[0] in ("-h", "--help"):
        print(_USAGE.format(names="\n  ".join(recipes.names())))
        return
    if not argv or argv[0].startswith("-"):
        meant = next((name for name in argv if name in recipes.names()), None)
        if meant is not None:
            raise ValueError(f"the recipe comes first: multimix train {meant} ..., then the options")
        raise ValueError(f"which recipe? Put one after `multimix train`: {', '.join(recipes.names())}")
    name = argv[0]
    card = recipes.card(name)
    options = parse(argv[1:], Options(config=card.config), prog=f"multimix train {name}", description=card.text)
    out = options.out or Path("runs") / default_name(name, options.config)
    run = RunDirectory(out)
    if options.resume and run.is_finished(options.config):
        _say(f"Already finished. {_summary(run)}")
        return
    try:
        with Display() as display:
            train(options.config, out, resume=options.resume, progress=display)
    except Interrupted as stop:
        _say(f"\n{stop}.\nContinue with: {_continuation(argv, out)}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        leave_process_group()
    _say(_summary(run))


def default_name(recipe: str, config: Config) -> str:
    """The name of the run directory below runs/, when --out is not given.

    >>> default_name("digits", Config(data="digits", method="multimix(alpha=0.1, n=100)", seed=3))
    'digits-multimix-alpha=0.1-n=100-seed3'
    """
    return f"{recipe}-{folder_name(config.method)}-seed{config.seed}"


def _continuation(argv: Sequence[str], out: Path) -> str:
    extra = [] if "--resume" in argv else ["--resume"]
    return shlex.join(["multimix", "train", *argv, *extra])


def _summary(run: RunDirectory) -> str:
    where = shlex.quote(str(run.path))
    try:
        result = json.loads(run.result.read_text(encoding="utf-8"))
        key, last, best = result["best_by"], result["last"], result["best"]
        accuracies = f"{last[key]:.2%} after epoch {last['epoch']}, best {best[key]:.2%} after epoch {best['epoch']}"
        seconds = f"{result['seconds']:.0f} s"
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{run.result} is damaged ({type(error).__name__}: {error}): delete it, and the same command with --resume "
            "writes it again from the last checkpoint"
        ) from None
    return (
        f"{key.removesuffix('_accuracy')} accuracy {accuracies}; {seconds}\n"
        f"Weights, metrics and checkpoints: {where}\n"
        f"Next: multimix evaluate {where}, or multimix report {where}"
    )


def _say(text: str, file: object = None) -> None:
    if is_first_process():
        print(text, file=file, flush=True)  # type: ignore[call-overload]
