"""What can be evaluated, and runs as such; classifiers of torchvision and timm are in `libraries`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from .. import data
from ..data.catalogue import read_from
from ..data.source import Files
from ..evaluation.inference import evaluating
from ..reports.conditions import data_name, training
from ..reports.plan import read_plan
from ..reports.runs import Group, Run, find_runs, group_runs
from ..training import RunDirectory, load_run
from ..training.devices import default_device
from ..training.setting import load_splits
from .fingerprint import fingerprint
from .part import Subject

__all__ = ["Candidate", "Which", "run_candidate", "run_candidates", "run_subject", "verified"]


Which = Literal["last", "best"]


@dataclass(frozen=True)
class Candidate:
    """A classifier that will be evaluated; `load` makes it when something has to be computed."""

    label: str
    seed: int
    which: Which | None
    """Weights of the last or of the best epoch; None for a model trained elsewhere."""
    method: str | None
    data: str
    """Name of the data set, as `multimix.data.load` knows it."""
    data_name: str
    """As people call it: for a folder of images, the folder's."""
    model: str
    source: str
    """Run folder, or name of the library model."""
    folder: Path
    """Where the results are kept, one file for each part."""
    identity: Callable[[], str]
    """It changes when weights or data change. Asked for each time, as the data may be fetched meanwhile."""
    load: Callable[[], Subject]
    device: str = "cpu"
    """Where it will be."""
    class_names: tuple[str, ...] = ()
    image_size: int | None = None
    """Side in pixels of the images that it takes, where that is known before it is made."""
    training: str = "trained elsewhere"
    """The conditions of its training in a few words."""
    baseline: str | None = None
    """The label of ERM with the same settings; None for ERM, without one, and for a model trained elsewhere."""
    still_to_train: str = ""
    """The epochs that an unfinished run has not seen; "" for a finished one, and for a model trained elsewhere."""
    check: Callable[[], object] = lambda: None
    """Raises before anything is computed for what `load` would refuse."""

    @property
    def name(self) -> str:
        """In messages.

        >>> Candidate("erm", 3, "best", "erm", "digits", "digits", "smallnet", "", Path(), str, load=lambda: None).name
        'erm, seed 3, best epoch'
        """
        if self.which is None:
            return self.label
        return f"{self.label}, seed {self.seed}" + (", best epoch" if self.which == "best" else "")


def run_candidates(
    paths: Iterable[Path],
    *,
    which: Sequence[Which],
    device: str | None = None,
    batch_size: int | None = None,
    data_root: Path | None = None,
) -> list[Candidate]:
    """The runs at or below `paths`, ERM first or as in a comparison, each with the weights of every epoch in `which`.

    Args:
        device: default: the GPU if there is one and the run did not ask for the CPU.
        batch_size: default: the one that the run was trained with.
        data_root: where the data are now; default: where they were in training.

    Raises:
        FileNotFoundError: a path does not exist or holds no run, or a run has no weights.
        ValueError: files are damaged, or the runs are on different data.
    """
    # Of a comparison as its page has them, so that both give a method the same colour.
    order = [method for path in paths if (plan := read_plan(path)) for method in plan.methods]
    return [
        run_candidate(_with_data(run, data_root), group, which=epoch, device=device, batch_size=batch_size)
        for group in group_runs(find_runs(paths), order)
        for run in group.runs.values()
        for epoch in which
    ]


def _with_data(run: Run, root: Path | None) -> Run:
    return run if root is None else replace(run, config=replace(run.config, data_root=root))


def run_candidate(
    run: Run, group: Group, *, which: Which = "last", device: str | None = None, batch_size: int | None = None
) -> Candidate:
    """One run of a group; arguments and errors as for `run_candidates`."""
    weights, root = file_digest(RunDirectory(run.path).weights_or_checkpoint(which)), run.config.data_root
    where = device or default_device(run.config)

    def load() -> Subject:
        subject = run_subject(run, group.label, which=which, device=where, batch_size=batch_size)
        if file_digest(RunDirectory(run.path).weights_or_checkpoint(which)) != weights:
            raise ValueError(f"{run.path} has changed weights since the start, as it is still training: evaluate again")
        return subject

    return Candidate(
        label=group.label,
        seed=run.config.seed,
        which=which,
        method=run.config.method,
        data=run.config.data,
        data_name=data_name(run.config.data, run.config.data_root),
        model=run.config.model,
        source=str(run.path),
        folder=run.path / "evaluation" / which,
        identity=lambda: make_identity(weights, files=None if root is None else read_from(run.config.data, root)),
        load=load,
        device=where,
        class_names=tuple(run.data_info["class_names"]),
        image_size=run.data_info["image_size"],
        training=f"{run.data_info['train_examples']:,} images, {training([run.config])}",
        baseline=group.baseline,
        still_to_train=_still_to_train(run),
        check=lambda: _splits(run),
    )


def _still_to_train(run: Run) -> str:
    if run.finished:
        return ""
    if len(run.metrics) >= run.config.epochs:  # stopped before the result was written
        return "its end, which training with --resume makes up for"
    return f"epochs {len(run.metrics) + 1} to {run.config.epochs}"


def run_subject(run: Run, label: str, *, which: Which, device: str, batch_size: int | None) -> Subject:
    """The trained model of a run, and its data; arguments as for `run_candidates`.

    Raises:
        FileNotFoundError: no weights, or no data.
        ValueError: the files are damaged, or the data are not those that the run was trained on.
    """
    splits = _splits(run)
    config = run.config
    _, model = load_run(run.path, which=which, device=device)
    subject = Subject(
        label=label,
        seed=config.seed,
        model=model,
        train=splits.train,
        test=splits.test,
        class_names=list(splits.class_names),
        image_size=splits.image_size,
        batch_size=batch_size or config.batch_size,
        method=config.method,
        workers=config.workers,
        config=config,
    )
    return verified(subject)


def _splits(run: Run) -> data.DataSplits:
    """The data of a run, if they still have the classes that it was trained on."""
    try:
        splits = load_splits(run.config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (from {run.path / 'config.json'}; seen from {Path.cwd()}): where the images have moved, or the "
            "path is of another folder, give --data-root"
        ) from error
    names, before = list(splits.class_names), run.data_info["class_names"]
    if names != before:
        raise ValueError(
            f"{run.path} was trained on {_classes(before)}, but the data now have {_classes(names)}: restore the data"
        )
    return splits


def verified(subject: Subject) -> Subject:
    """The subject, after a look at how its model takes two of its test images.

    Raises:
        ValueError: it does not give finite logits for the classes of the data, or pixels are outside [0, 1].
    """
    # In memory: a loader of files would start its worker processes for two images.
    loader = replace(subject, batch_size=2, workers=0).loader(subset=torch.arange(min(2, len(subject.test))))
    images = next(iter(loader.batches(0))).images
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{subject.label}: test images have pixels from {low:.4g} to {high:.4g}: they must lie in [0, 1], "
            "and the normalisation must be inside the model"
        )
    with evaluating(subject.model):
        logits = subject.model(images)
    if logits.shape != (len(images), len(subject.class_names)):
        raise ValueError(
            f"{subject.label} gives logits {tuple(logits.shape)} for {len(images)} images of "
            f"{_classes(subject.class_names)}: it needs data with exactly the classes that it was trained on"
        )
    if not logits.isfinite().all():
        raise ValueError(f"{subject.label} gives logits that are not finite: its weights are damaged, or diverged")
    return subject


def make_identity(*parts: str, files: Files | None) -> str:
    """A digest of the parts and of the files that the data are read from; None for data that come with a library."""
    state = _state(files.root, files.places and tuple(files.places)) if files else ""
    return hashlib.blake2b(repr([*parts, state]).encode()).hexdigest()[:32]


@functools.lru_cache(maxsize=8)
def _state(root: Path, places: Sequence[Path] | None) -> str:
    # Looked at once in a process, as the data are: many runs share a folder, and it may hold a million images.
    return fingerprint(root, places)


def file_digest(path: Path) -> str:
    """A digest of the contents of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def data_digest(dataset: data.Dataset, class_names: Sequence[str]) -> str:
    """A digest of the labels and the class names of a data set."""
    digest = hashlib.blake2b(repr(list(class_names)).encode())
    digest.update(dataset.labels.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _classes(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:3]))
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 3 else ''})"
