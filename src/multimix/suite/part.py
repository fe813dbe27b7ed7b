"""What a part of the evaluation is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .. import data
from ..data.pictures import Resize
from ..data.source import Files
from ..models import SplitModel
from ..reports.conditions import several
from ..reports.section import Section
from ..training import Config
from .store import Store

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""By label, what `Part.evaluate` returned for each seed."""


def first_result(results: Results) -> Mapping[str, Any]:
    """That of the first seed of the first label, for what all have in common."""
    return next(iter(results.values()))[0]


def said(results: Results, of: Callable[[Mapping[str, Any]], object]) -> str:
    """What a page says of all results, where the models may differ: every value once.

    >>> said({"a": [{"side": 32}, {"side": 32}], "b": [{"side": 224}]}, lambda run: f"{run['side']} pixels")
    '32 pixels / 224 pixels'
    """
    return several(of(run) for runs in results.values() for run in runs)


@dataclass(frozen=True)
class Legend:
    """How a page shows its labels."""

    colors: Mapping[str, str]
    baselines: Mapping[str, str] = field(default_factory=dict)
    """By label, that of ERM with the same settings; of those that have one."""


@dataclass(frozen=True)
class Subject:
    """A trained classifier and the data that it is evaluated on."""

    label: str
    """What it is called on the page; models that differ in their seed alone have the same label."""
    seed: int
    model: SplitModel
    """In evaluation mode, on its device; maps pixels in [0, 1] to logits."""
    train: data.Dataset | None
    """What it was trained on; None for a model whose training data are not at hand."""
    test: data.Dataset
    class_names: Sequence[str]
    image_size: int
    batch_size: int
    method: str | None
    """The training method, as `multimix.methods.parse` reads it; None for a model trained elsewhere."""
    workers: int = 0
    config: Config | None = None
    """How it was trained; None for a model trained elsewhere."""
    resize: Resize = Resize()  # noqa: RUF009 - it is frozen
    """How its pictures are resized before the centre is cut out."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def loader(self, dataset: data.Dataset | None = None, subset: Tensor | None = None) -> data.Loader:
        """Images in order, without augmentation: the test set or another data set, only `subset` (indices) of it."""
        dataset = self.test if dataset is None else dataset
        return data.loader(
            dataset if subset is None else dataset.subset(subset),
            batch_size=self.batch_size,
            train=False,
            image_size=self.image_size,
            device=self.device,
            workers=self.workers,
            resize=self.resize,
        )


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """One part of the evaluation: a frozen dataclass whose fields are plain options with docstrings."""

    name: ClassVar[str]
    """As in `multimix evaluate --parts accuracy,attacks`."""

    @abstractmethod
    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """Everything that the part says about one subject, as a plain JSON object.

        Args:
            say: called with a few words of progress ("PGD, batch 3 of 40") before each longer piece of work.

        Raises:
            ValueError: the part does not make sense for this subject, or its options or data are wrong; says why
                and what to do. Other parts and subjects go on.
        """

    @abstractmethod
    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of one subject that stand in the overview table and the CSV file: column title -> value.

        A title ends in ↑ or ↓ where higher or lower is better ("PGD error, % ↓").
        """

    @abstractmethod
    def sections(self, results: Results, legend: Legend) -> list[Section]:
        """What the page shows: by label, the results of its seeds."""

    def resolved(self) -> Self:
        """The same with options filled in that depend on others: results are kept for the values, however they were
        come by."""
        return self

    def files(self) -> Mapping[str, Files]:
        """What is read besides the classifiers and their data, by a name for each; results hold for these files as
        they are."""
        return {}

    def check_files(self, image_size: int | None) -> None:
        """Called before anything is evaluated, unless all results are there; may fetch what is missing.

        Args:
            image_size: the largest that a classifier takes, in pixels; None where it is not known yet.

        Raises:
            FileNotFoundError, ValueError: a file or folder is missing, of another form, or empty.
        """
        return None
