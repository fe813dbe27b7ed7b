"""`multimix evaluate RUN...`: every evaluation of the paper for finished runs, and for torchvision and timm models."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from ..errors import nearest_or_all
from ..files import naming_another_folder, refuse_file, refuse_unwritable, write_atomically
from ..suite import ALL, CHEAP, PARTS, Part
from ..suite.advice import without_skip_advice
from ..suite.libraries import LIBRARIES, library_candidate
from ..suite.page import label_colors, write_evaluation
from ..suite.results import overview
from ..suite.running import Outcome, check_inputs, run_parts
from ..suite.subjects import Candidate, Which, run_candidates
from ..training.devices import use_device
from ..training.interrupt import as_ctrl_c
from .console import show_table
from .evaluation_board import EvaluationBoard
from .options import flags_and_lists, parse, split_paths

LOG = "evaluation-log.txt"


@dataclass(frozen=True, kw_only=True)
class Common:
    """What `multimix evaluate RUN...` takes besides the options of the parts."""

    parts: str = ",".join(CHEAP)
    """What to measure, separated by commas; all for everything but detection."""
    which: Literal["last", "best", "both"] = "last"
    """Weights of the last epoch, of the best, or one after the other."""
    out: Path | None = None
    """Folder of evaluation.html, .json, .csv and plots/; default: the first RUN."""
    device: str | None = None
    """cpu or cuda; default: the GPU if there is one."""
    batch_size: int | None = None
    """Images at a time; default: as in training, or 64 for library models."""
    data: str | None = None
    """Data set of library models, such as imagefolder."""
    data_root: Path | None = None
    """Folder of --data, with train/ and val/ or test/, or class folders; for runs: where their images have moved."""
    weights: Path | None = None
    """Weights of a library model, .safetensors or .pth; default: the published ones."""
    image_size: int | None = None
    """Side of the images of library models; default: that of the published weights, or of the images."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


Options: Any = dataclasses.make_dataclass(
    "Options",
    [(part.name, part, dataclasses.field(default=part())) for part in PARTS],
    bases=(Common,),
    frozen=True,
    kw_only=True,
)
"""`Common` and the options of every part, as `--attacks.limit`."""


def main(argv: list[str]) -> None:
    """Measure what is not there yet, then print the overview and write the page."""
    default = Options()
    flags, lists = flags_and_lists(default)
    paths, rest = split_paths(argv, flags=flags, lists=lists)
    options = parse(
        rest,
        default,
        prog="multimix evaluate RUN...",
        description="Evaluates runs (run folders, or folders that hold runs) and torchvision:NAME or timm:NAME with "
        f"--data and --data-root. Parts: {', '.join(part.name for part in PARTS)}. Every result is kept beside its run "
        "as soon as it is there: the same command continues where it stopped.",
        prefixes=True,
    )
    if not paths:
        raise ValueError("which runs? Give run folders, or folders that hold runs: multimix evaluate RUN...")
    parts = chosen_parts(options)
    if options.device is not None:
        use_device(options.device)
    out = options.out or (Path("runs") / "evaluation" if _is_library(paths[0]) else paths[0])
    if options.out is not None:
        refuse_file(options.out)
    with without_skip_advice():
        candidates = find_candidates(paths, options, out)
    refuse_unwritable(out)
    candidates = [_where_it_can_be_written(candidate, out) for candidate in candidates]
    for candidate in candidates:
        if candidate.still_to_train:
            warnings.warn(f"{candidate.name} is evaluated before {candidate.still_to_train}", stacklevel=2)
    command = shlex.join(["multimix", "evaluate", *argv])
    try:
        with as_ctrl_c():
            with without_skip_advice():
                missing = check_inputs(candidates, parts)
            total = len(candidates) * len(parts)
            if kept := total - sum(missing.values()):
                print(f"{kept} of {total} evaluations are there already", flush=True)
            with EvaluationBoard(total, missing) as board:
                outcomes = run_parts(candidates, parts, board, log=out / LOG)
            if not any(outcome.results for outcome in outcomes):
                raise ValueError(f"nothing could be evaluated: {_failures(outcomes)[0]}")
            # Before the page, which may fail: hours of work are then not for nothing.
            show_table(overview(outcomes, parts, label_colors(outcomes)))
            print("\nMaking the page ...", flush=True)
            with naming_another_folder():
                left_out = write_evaluation(outcomes, parts, out, command=command)
    except KeyboardInterrupt:
        print(f"\nStopped; every result that could be saved is. Continue with: {command}", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"Page: {out / 'evaluation.html'} (also evaluation.json, evaluation.csv and plots/)")
    for line in [*_failures(outcomes), *(f"not on the page: {line}" for line in left_out)]:
        print(f"multimix: {line}", file=sys.stderr)
    if failed := sum(len(outcome.failures) for outcome in outcomes):
        print(
            f"multimix: {failed} of {total} evaluations failed; tracebacks are in {out / LOG}. "
            "The same command tries them again",
            file=sys.stderr,
        )
    if failed or left_out:
        raise SystemExit(1)


def _where_it_can_be_written(candidate: Candidate, out: Path) -> Candidate:
    """The candidate with a folder below `out` for its results, and a copy of those that are kept, where nothing can be
    written beside its run, on a read-only disk, say."""
    try:
        refuse_unwritable(candidate.folder)
        return candidate
    except OSError:
        digest = hashlib.blake2b(os.fsencode(candidate.folder.resolve()), digest_size=6).hexdigest()
        folder = out / "kept" / digest
    if candidate.folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for file in candidate.folder.iterdir():
            if file.is_file() and not (folder / file.name).exists():
                write_atomically(folder / file.name, lambda copy, file=file: copy.write(file.read_bytes()))  # type: ignore[misc]
    return dataclasses.replace(candidate, folder=folder)


def chosen_parts(options: Any) -> list[Part]:
    """The parts that --parts names, with their options, in the order of the page.

    Raises:
        ValueError: an unknown part, or none.
    """
    known = [part.name for part in PARTS]
    asked = [name.strip() for name in options.parts.split(",") if name.strip()]
    names = [name for each in asked for name in (ALL if each == "all" else [each])]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown part {name!r}{nearest_or_all(name, [*known, 'all'])}")
    if not names:
        raise ValueError(f"--parts is empty: name some of {', '.join(known)}, or all")
    for part in PARTS:
        given, default = (vars(each) for each in (getattr(options, part.name), part()))
        if part.name not in names and (changed := [name for name in given if given[name] != default[name]]):
            option = f"--{part.name}.{changed[0].replace('_', '-')}"
            warnings.warn(f"{option} is for a part that is not measured: --parts leaves out {part.name}", stacklevel=2)
    return [getattr(options, name) for name in known if name in names]


def find_candidates(paths: Sequence[Path], options: Any, out: Path) -> list[Candidate]:
    """Runs, then library models, each in the order of the command line.

    Raises:
        FileNotFoundError: a path does not exist or holds no run, or a run has no weights.
        ValueError: files are damaged, classes differ, or a library model comes without data.
    """
    which: list[Which] = ["last", "best"] if options.which == "both" else [options.which]
    runs = [path for path in paths if not _is_library(path)]
    found: list[Candidate] = []
    for path in runs:
        if options.data and not path.exists():
            raise ValueError(f"{path} does not exist: did you mean timm:{path} or torchvision:{path}?")
    given = [name for name in ("data", "weights", "image_size") if getattr(options, name) is not None]
    if len(runs) == len(paths) and given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for torchvision:NAME and timm:NAME, but all of "
            f"{', '.join(map(str, paths))} are folders of runs, which have their own data and weights: leave it out"
        )
    if runs:
        found += run_candidates(
            runs,
            which=which,
            device=options.device,
            batch_size=options.batch_size,
            data_root=options.data_root if len(runs) == len(paths) else None,
        )
    for path in paths:
        if _is_library(path):
            found.append(
                library_candidate(
                    str(path),
                    data=options.data,
                    root=options.data_root,
                    weights=options.weights,
                    image_size=options.image_size,
                    batch_size=options.batch_size,
                    device=options.device,
                    folder=out / "evaluation",
                )
            )
    data = dict.fromkeys((candidate.data, candidate.class_names) for candidate in found)
    if len(data) > 1:
        (one, classes), (other, others) = list(data)[:2]
        pairs = enumerate(zip_longest(classes, others, fillvalue="none"))
        apart = next((f"; class {k} is {a} of the first, {b} of the second" for k, (a, b) in pairs if a != b), "")
        raise ValueError(
            f"the models are on different data ({one} with {len(classes)} classes, {other} with {len(others)}{apart}): "
            "evaluate them in separate commands"
        )
    return found


def _is_library(path: Path) -> bool:
    return str(path).partition(":")[0] in LIBRARIES and ":" in str(path)


def _failures(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{o.candidate.name}, {part}: failed: {why}" for o in outcomes for part, why in o.failures.items()]
