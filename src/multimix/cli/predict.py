"""`multimix predict RUN IMAGE...`: classify pictures with what was trained."""

from __future__ import annotations

import csv
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..data.listing import EXTENSIONS, all_pictures
from ..data.pictures import OR_SKIP
from ..errors import one_line
from ..extras import require
from ..files import printable
from ..functional._checks import check_count
from ..training import RunDirectory
from ..training.classify import classify
from ..training.devices import default_device, use_device
from ..training.interrupt import as_ctrl_c
from .options import parse, split_paths


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `multimix predict RUN IMAGE...` takes: a run folder, image files and folders of images, and these."""

    top: int = 3
    """How many classes to name for each image, the most probable first."""
    which: Literal["last", "best"] = "last"
    """Weights of the last or of the best epoch."""
    out: Path | None = None
    """A CSV file to write instead of lines on the terminal."""
    device: str | None = None
    """cpu or cuda; default: the GPU if there is one."""
    batch_size: int = 64
    """Images at a time."""

    def __post_init__(self) -> None:
        for name in ("top", "batch_size"):
            check_count(name, getattr(self, name))


def main(argv: list[str]) -> None:
    """One line for each image, as soon as it is classified."""
    paths, rest = split_paths(argv)
    options = parse(
        rest,
        Options(),
        prog="multimix predict RUN IMAGE...",
        description="Classifies image files, and all images at or below folders, with the trained model of a run. "
        "They are resized and cut as the run's test images are.",
    )
    if len(paths) < 2:
        raise ValueError("which images? Give a run folder, then images or folders: multimix predict RUN IMAGE...")
    run, *places = paths
    if options.device is not None:
        use_device(options.device)
    config, info = RunDirectory(run).read_config()
    names = info["class_names"]
    files = [file for place in places for file in _images(place)]
    if options.out is not None:
        _refuse_other(options.out, files)
    found = classify(
        run,
        files,
        which=options.which,
        device=options.device or default_device(config),
        batch_size=options.batch_size,
    )
    broken: list[Path] = []
    rows = _likeliest(found, names, options.top, broken)
    with as_ctrl_c():
        if options.out is None:
            for path, likely in rows:
                print(f"{path}: {', '.join(f'{name} {p:.1%}' for name, p in likely)}", flush=True)
        else:
            _write(options.out, _watched(rows, len(files)), top=min(options.top, len(names)))
            print(f"{len(files) - len(broken)} images classified: {options.out}")
    if broken:
        raise SystemExit(1)


def _likeliest(
    found: Iterable[tuple[Path, Tensor | Exception]], names: Sequence[str], top: int, broken: list[Path]
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each image with its likeliest classes; those that cannot be read are named, and added to `broken`."""
    for path, probabilities in found:
        if isinstance(probabilities, Exception):
            broken.append(path)
            print(f"multimix: {one_line(probabilities).removesuffix(OR_SKIP)}", file=sys.stderr)
        else:
            order = probabilities.argsort(descending=True, stable=True)[:top]
            yield printable(str(path)), [(names[k], float(probabilities[k])) for k in order]


def _write(out: Path, rows: Iterable[tuple[str, list[tuple[str, float]]]], *, top: int) -> None:
    """A CSV file, which has its name once it is whole; what an interrupt or a full disk leaves is beside it."""
    plain = out.is_file() or not out.exists()  # not a pipe
    if plain:
        out = Path(os.path.realpath(out))  # a link stays one
    partial = out.with_name(f"{out.name}.{secrets.token_hex(4)}.partial") if plain else out
    done = 0
    of_reading: list[BaseException] = []

    def read() -> Iterator[tuple[str, list[tuple[str, float]]]]:
        try:
            yield from rows
        except OSError as error:
            of_reading.append(error)
            raise

    try:
        with open(partial, "x" if plain else "w", newline="", encoding="utf-8", buffering=1) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", *(f"{what}_{k + 1}" for k in range(top) for what in ("class", "probability"))])
            for path, likely in read():
                writer.writerow([path, *(value for name, p in likely for value in (name, f"{p:.6g}"))])
                done += 1
            if plain:
                file.flush()
                os.fsync(file.fileno())
        if plain:
            partial.replace(out)
    except BaseException as error:
        if plain and not done:
            with suppress(OSError):
                partial.unlink()
        kept = f"the {done} images classified so far are in {partial}"
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) and error not in of_reading:
            why = f"cannot write {out} ({error.strerror or error}){f'; {kept}' if done else ''}"
            raise OSError(f"{why}: choose another --out") from error
        if plain and done:
            print(f"stopped; {kept}", file=sys.stderr)
        raise


def _refuse_other(out: Path, files: Sequence[Path]) -> None:
    """What comes of `--out *.png`, which the shell makes several names of, and of a slip into a run."""
    if out.is_file() and out.suffix.lower() in (".safetensors", ".pt", ".pth", ".json", ".jsonl"):
        raise ValueError(f"--out {out} is a file of a run: name a file for the table, such as found.csv")
    if out.suffix.lower() in EXTENSIONS or (out.is_file() and any(_is_same(out, file) for file in files)):
        raise ValueError(f"--out {out} is an image: name a file for the table, such as found.csv")


def _is_same(out: Path, file: Path) -> bool:
    with suppress(OSError):  # a link that leads nowhere
        return out.samefile(file)
    return False


def _images(place: Path) -> Sequence[Path]:
    """A file, or all images at or below a folder."""
    if not place.is_dir():
        if not place.exists():
            raise FileNotFoundError(f"{place} does not exist: expected an image, or a folder of images")
        return [place]
    images, others = all_pictures(place)
    names = images + others  # these are tried, and named where they cannot be read
    if not names:
        raise ValueError(f"{place} holds no images ({', '.join(EXTENSIONS)})")
    return [place / name for name in names]


def _watched(found: Iterator[Any], total: int) -> Iterator[Any]:
    """With a bar and an estimate of what is left, on a terminal."""
    progress = require("rich.progress", "train")
    console = require("rich.console", "train").Console(stderr=True)
    watched: Iterator[Any] = progress.track(
        found, "classifying", total=total, console=console, transient=True, disable=not console.is_terminal
    )
    return watched
