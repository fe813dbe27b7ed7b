"""Image files through the trained model of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..data import pictures
from ..data.pictures import UnreadableImageError
from ..evaluation.inference import evaluating
from ..functional._checks import check_count
from .rundir import RunDirectory
from .weights import load_run

__all__ = ["class_names", "classify"]


def class_names(run_dir: Path | str) -> list[str]:
    """The names of the classes that a run was trained on, in the order of its logits.

    Raises:
        FileNotFoundError: `run_dir` is not a run.
        ValueError: its config.json is damaged.
    """
    return RunDirectory(Path(run_dir)).read_config()[1]["class_names"]


def classify(
    run_dir: Path | str,
    images: Iterable[Path | str],
    *,
    which: Literal["last", "best"] = "last",
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> Iterator[tuple[Path, Tensor | UnreadableImageError | OSError]]:
    """The class probabilities of image files, as the test images of a run are read, resized and cut.

    Args:
        run_dir: what `train` returned, or `multimix train --out`.
        images: files, in any format that Pillow reads; made grey for a model of grey images.
        which: weights of the last or of the best epoch.
        device: where to compute.
        batch_size: images at a time.

    Returns:
        Every file with its probabilities (c,), float32 on the CPU, in the order of `class_names`, as soon as its batch
        is done; or with the error, where the file cannot be read.

    Raises:
        FileNotFoundError: `run_dir` is not a run, or has no weights yet.
        TypeError: `images` is a single path.
        ValueError: `batch_size` is below 1, or the weights are damaged.
    """
    check_count("batch_size", batch_size)
    if isinstance(images, str | Path):
        raise TypeError(f"images must be several files, got {images!r}: give a list, [{str(images)!r}]")
    _, model = load_run(run_dir, which=which, device=device)
    info = RunDirectory(Path(run_dir)).read_config()[1]
    size, grey = info["image_size"], len(info["mean"]) == 1

    def read(path: Path) -> Tensor | UnreadableImageError | OSError:
        try:
            picture = pictures.fit(pictures.read(path), size)
        except (UnreadableImageError, OSError) as error:
            return error
        found = pictures.pixels(picture)
        return pictures.luma(found[None])[0] if grey else found

    def run_all() -> Iterator[tuple[Path, Tensor | UnreadableImageError | OSError]]:
        paths = map(Path, images)
        with ThreadPoolExecutor(max_workers=4) as readers:  # decoders leave Python to itself
            while chunk := list(islice(paths, batch_size)):
                found = list(readers.map(read, chunk))
                readable = [pixels for pixels in found if isinstance(pixels, Tensor)]
                rows: Iterator[Tensor] = iter(())
                if readable:
                    with evaluating(model):
                        pixels = torch.stack(readable).to(device).float() / 255
                        rows = iter(model(pixels).float().softmax(-1).cpu())
                for path, one in zip(chunk, found, strict=True):
                    yield path, next(rows) if isinstance(one, Tensor) else one

    return run_all()
