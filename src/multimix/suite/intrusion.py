"""Manifold intrusion (section 4.5): the distance of mixed embeddings to classes that are not mixed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import data, evaluation, methods
from ..evaluation.inference import evaluating
from ..random import make_generator
from ..reports.section import Section
from . import intrusion_page
from .part import Legend, Part, Results, Subject
from .store import Store

BINS = 40
CLEAN = "clean images"
ROUNDING = 1e-12
"""What is below this part of a squared norm is the rounding of float32 embeddings."""


@dataclass(frozen=True, kw_only=True)
class Intrusion(Part):
    """Manifold intrusion: how near mixed embeddings come to clean images of classes that are not mixed in them."""

    name: ClassVar[str] = "intrusion"

    mixers: tuple[str, ...] = ()
    """Further methods whose mixing is measured on every classifier, such as cutmix or multimix(alpha=0.1)."""
    batches: int = 10
    """Number of mini-batches to mix."""
    batch_size: int = 128
    """Images in each of these mini-batches."""
    bank: int = 10_000
    """Number of clean images, chosen at random, to whose embeddings distances are taken."""
    threshold: float | None = None
    """Weight in the mixed target above which a class counts as mixed; default: 1 / number of classes."""
    seed: int = 0
    """Seed of the choice of images and of the mixing."""

    def __post_init__(self) -> None:
        for text in self.mixers:
            if not evaluation.mixings(methods.parse(text)):
                raise ValueError(f"mixers must be methods that mix images or embeddings, got {text!r}")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {self.threshold}")
        if min(self.batches, self.bank) < 1 or self.batch_size < 2:
            raise ValueError(
                "batches and bank must be at least 1 and batch_size at least 2, "
                f"got {self.batches}, {self.bank}, {self.batch_size}"
            )

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """By mixing, its own ones first: mean and histogram of squared distances, raw and normalised.

        The training images are mixed, without augmentation, or the test images where those are not at hand.
        """
        own = evaluation.mixings(methods.parse(subject.method)) if subject.method else {}
        found = dict(own)
        for text in self.mixers:
            found |= {f"{text}: {name}": method for name, method in evaluation.mixings(methods.parse(text)).items()}
        images = subject.test if subject.train is None else subject.train
        measure = self._measurer(subject, images, say)
        measured = {
            name: store.compute(name, functools.partial(measure, name, method))
            for name, method in {CLEAN: None, **found}.items()
        }
        threshold = 1 / subject.model.num_classes if self.threshold is None else self.threshold
        return {
            "source": "test" if subject.train is None else "training",
            "bank": min(self.bank, len(images)),
            "mixed": min(self.batches * self.batch_size, len(images)),
            "threshold": threshold,
            "own": list(own),
            "mixings": measured,
        }

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        if not result["own"]:
            return {}
        return {"intrusion distance ↑": result["mixings"][result["own"][0]]["normalized"]["mean"]}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return intrusion_page.sections(results, legend.colors)

    def _measurer(
        self, subject: Subject, images: data.Dataset, say: Callable[[str], None]
    ) -> Callable[[str, methods.Method | None], dict[str, Any]]:
        model = subject.model

        def shuffled(purpose: str) -> Tensor:
            return torch.randperm(len(images), generator=make_generator(self.seed, "intrusion", purpose))

        @functools.cache
        def bank() -> tuple[Tensor, Tensor]:
            chosen = shuffled("bank")[: self.bank].sort().values
            say(f"embedding a bank of {len(chosen)} images")
            return evaluation.embeddings(model, subject.loader(images, chosen))

        def measure(name: str, method: methods.Method | None) -> dict[str, Any]:
            z, labels = bank()
            say(f"mixing {self.batches} mini-batches: {name}")
            generator = make_generator(self.seed, "intrusion", "mix")
            chosen = shuffled("batches")[: self.batches * self.batch_size]
            distances: dict[str, list[Tensor]] = {"raw": [], "normalized": []}
            for batch in replace(subject, batch_size=self.batch_size).loader(images, chosen).batches(0):
                mixed, weights = _embed(method, subject, batch, generator)
                for space, parts in distances.items():
                    normalize = space == "normalized"
                    parts.append(
                        evaluation.intrusion_distances(
                            mixed, weights, z, labels, threshold=self.threshold, normalize=normalize
                        ).cpu()
                    )
            size = {"raw": z.double().square().sum(1).mean().item(), "normalized": 1.0}
            return {space: _summary(torch.cat(parts), size[space]) for space, parts in distances.items()}

        return measure


def _embed(
    method: methods.Method | None, subject: Subject, batch: data.Batch, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if method is not None:
        return evaluation.mixed_embeddings(
            method, subject.model, batch.images, batch.targets, generator, extras=batch.extras
        )
    with evaluating(subject.model):
        weights = torch.nn.functional.one_hot(batch.targets, subject.model.num_classes).float()
        return subject.model.embed(batch.images).float(), weights


def _summary(distances: Tensor, size: float) -> dict[str, Any]:
    """The mean, and shares in even bins from 0 to the 99th percentile; the last bin takes what is beyond.

    The page divides by the mean of clean images, so between equal embeddings it must be 0, without what rounding leaves
    of embeddings whose mean squared norm is `size`.
    """
    distances = distances.where(distances > ROUNDING * size, 0.0)
    # torch.quantile refuses more than 2^24 values.
    high = max(distances.kthvalue(max(1, round(0.99 * len(distances)))).values.item(), 1e-12)
    shares = torch.histc(distances.clamp(max=high), BINS, 0, high) / len(distances)
    return {
        "mean": distances.mean().item(),
        "median": distances.median().item(),
        "high": high,
        "shares": shares.tolist(),
        "count": len(distances),
    }
