"""Corruption robustness: the error of every type and severity, and the mean corruption error."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch

from ..evaluation.attacks import attacking
from ..evaluation.corruptions import CORRUPTIONS, corrupt
from ..evaluation.corruptions.constants import CONSTANTS, ConstantsOf, constants_for
from ..random import make_generator
from ..reports.section import Section
from . import corruptions_page
from .batches import Batches, check_limit, choose
from .part import Legend, Part, Results, Subject
from .store import Store

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Corruptions(Part):
    """Error on corrupted test images, in the style of CIFAR-10-C and ImageNet-C."""

    name: ClassVar[str] = "corruptions"

    limit: int | None = 1000
    """Number of test images to corrupt, equally many of each class; None: all, as in published numbers."""
    types: tuple[str, ...] = CORRUPTIONS
    """Types of corruption."""
    constants: ConstantsOf | None = None
    """Data set whose strengths of corruption are used; default: the one whose images are nearest in size."""
    seed: int = 0
    """Seed of the choice of images and of the random corruptions."""

    def __post_init__(self) -> None:
        check_limit(self.limit)
        unknown = [name for name in self.types if name not in CORRUPTIONS]
        if unknown or not self.types:
            raise ValueError(f"types must be some of {', '.join(CORRUPTIONS)}, got {', '.join(unknown) or 'none'}")
        if self.constants is not None and self.constants not in CONSTANTS:
            raise ValueError(f"constants must be one of {', '.join(CONSTANTS)}, got {self.constants!r}")

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        chosen = choose(subject.test.labels, self.limit, seed=self.seed)
        batches = Batches(subject, chosen)
        wrong = []
        for number in range(len(batches)):
            say(f"batch {number + 1} of {len(batches)}")
            job = functools.partial(self._wrong, subject, batches, number)
            wrong.append(store.compute(batches.key("corruptions", number), job))
        total: dict[str, list[float]] = {
            name: [sum(counts) / len(chosen) for counts in zip(*(batch[name] for batch in wrong), strict=True)]
            for name in wrong[0]
        }
        (clean,) = total.pop("clean")
        return {
            "examples": len(chosen),
            "test_examples": len(subject.test),
            "constants": self._constants(subject),
            "clean": clean,
            "error": total,
            "mean": fmean(fmean(errors) for errors in total.values()),
        }

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        return {"corruption error, % ↓": 100 * result["mean"]}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return corruptions_page.sections(results, legend)

    def _constants(self, subject: Subject) -> ConstantsOf:
        return self.constants or constants_for(subject.image_size, subject.image_size)

    def _wrong(self, subject: Subject, batches: Batches, number: int) -> dict[str, list[int]]:
        """How many images of a batch are misclassified, clean and for each type and severity."""
        images, labels, _ = batches[number]

        def count(x: torch.Tensor) -> torch.Tensor:
            return (subject.model(x).argmax(dim=1) != labels).sum()

        def corrupted(name: str, severity: int) -> torch.Tensor:
            # The same draws for every severity, so that they differ in strength alone.
            generator = make_generator(self.seed, name, number)
            return corrupt(images, name, severity, generator=generator, constants=self._constants(subject))

        with torch.no_grad(), attacking(subject.model, images.device):
            counts = {"clean": [count(images)]}
            for name in self.types:
                counts[name] = [count(corrupted(name, severity)) for severity in SEVERITIES]
        return {name: torch.stack(values).tolist() for name, values in counts.items()}
