"""Finished runs on their test set: everything that tables and diagrams show beyond the metrics of training."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .. import data, evaluation
from ..training import Config, RunDirectory, load_run
from ..training.files import write_json

BINS = 15
Which = Literal["last", "best"]


@dataclass(frozen=True)
class Evaluation:
    """A model on its test set. Accuracies are fractions; NaN is None, as JSON has it."""

    which: str
    examples: int
    accuracy: float
    top5: float | None
    """None with five classes or fewer."""
    nll: float
    ece: float
    class_names: Sequence[str]
    per_class_accuracy: Sequence[float | None]
    """None for a class without test examples."""
    bin_confidences: Sequence[float | None]
    bin_accuracies: Sequence[float | None]
    bin_counts: Sequence[float]
    """The reliability diagram, 15 bins of equal width."""


def evaluate_run(path: Path, *, which: Which = "last", device: str | None = None) -> Evaluation:
    """Evaluate a run on its test set.

    The result is kept in the run directory with a digest of the weights, and read back while they are the same.

    Args:
        path: run directory.
        which: the weights of the last or of the best epoch.
        device: default: the GPU if there is one and the run did not ask for the CPU.

    Raises:
        FileNotFoundError: not a run, no weights, or no data.
        ValueError: the files are damaged, or the data are not those that the run was trained on.
    """
    run = RunDirectory(path)
    config, data_info = run.read_config()
    weights = run.weights(which)
    digest = _digest(weights) if weights.is_file() else None
    kept = path / f"evaluation-{which}.json"
    if digest is not None and (before := _read(kept, digest)) is not None:
        return before
    _, model = load_run(path, which=which, device=device or default_device(config))
    splits = load_splits(config)
    names = list(splits.class_names)
    if names != list(data_info["class_names"]):
        raise ValueError(
            f"{path} was trained on {_classes(data_info['class_names'])}, but the data now have {_classes(names)}: "
            "restore the data"
        )
    logits, labels = evaluation.predict(model, make_test_loader(config, splits, next(model.parameters()).device))
    result = _evaluate(logits.cpu(), labels.cpu(), which, names)
    if digest is not None:
        # A run on a read-only disk can be evaluated all the same.
        with contextlib.suppress(OSError):
            write_json(kept, {"weights": digest, **asdict(result)})
    return result


def default_device(config: Config) -> Literal["cpu", "cuda"]:
    """Where a run of `config` is evaluated: on the GPU unless there is none, or it asked for the CPU."""
    return "cuda" if torch.cuda.is_available() and config.accelerator in ("auto", "cuda") else "cpu"


def load_splits(config: Config) -> data.DataSplits:
    """The data of a run; the last ones loaded are kept in memory."""
    return _load_splits(
        config.data,
        config.data_root,
        config.held_out,
        config.download,
        config.per_class,
        config.val_per_class,
        config.subset_seed,
        config.image_size,
        config.bad_images,
    )


def make_test_loader(
    config: Config, splits: data.DataSplits, device: torch.device | str, subset: Tensor | None = None
) -> data.Loader:
    """The test images of a run in order; only those of `subset` (indices), where it is given."""
    test = splits.test if subset is None else splits.test.subset(subset)
    return data.loader(
        test,
        batch_size=config.batch_size,
        train=False,
        image_size=splits.image_size,
        device=device,
        workers=config.workers,
    )


@functools.lru_cache(maxsize=1)
def _load_splits(name, root, held_out, download, per_class, val_per_class, subset_seed, image_size, bad_images):  # type: ignore[no-untyped-def]
    return data.load(
        name,
        root=root,
        held_out=held_out,
        download=download,
        per_class=per_class,
        val_per_class=val_per_class,
        subset_seed=subset_seed,
        image_size=image_size,
        bad_images=bad_images,
    )


def _evaluate(logits: Tensor, labels: Tensor, which: str, names: list[str]) -> Evaluation:
    probabilities = logits.double().softmax(dim=1)
    diagram = evaluation.reliability(probabilities, labels, bins=BINS)
    return Evaluation(
        which=which,
        examples=len(labels),
        accuracy=evaluation.accuracy(logits, labels),
        top5=evaluation.accuracy(logits, labels, k=5) if logits.shape[1] > 5 else None,
        nll=evaluation.negative_log_likelihood(logits, labels),
        ece=evaluation.expected_calibration_error(probabilities, labels, bins=BINS),
        class_names=names,
        per_class_accuracy=_plain(evaluation.per_class_accuracy(logits, labels)),
        bin_confidences=_plain(diagram.confidences),
        bin_accuracies=_plain(diagram.accuracies),
        bin_counts=diagram.counts.tolist(),
    )


def _plain(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _read(path: Path, digest: str) -> Evaluation | None:
    """What was kept for these weights; None when there is nothing, or nothing usable."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Evaluation(**value) if value.pop("weights") == digest else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 3 else ''})"
