"""Out-of-distribution detection: how well scores tell test images from images of other sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import data, evaluation
from ..data.ood_layouts import read_from
from ..data.ood_sets import NOISES, check_set, ood_set, parse_spec
from ..data.source import Files
from ..evaluation.inference import evaluating
from ..evaluation.ood import METRICS
from ..evaluation.ood_detectors import FITTED_DETECTORS
from ..random import make_generator
from ..reports.section import Section
from . import ood_page
from .fingerprint import fingerprint
from .part import Legend, Part, Results, Subject
from .store import Store

LOGIT_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "max-softmax": evaluation.max_softmax,
    "energy": evaluation.energy,
    "entropy": evaluation.entropy,
    "max-logit": evaluation.max_logit,
}
DETECTORS = (*LOGIT_SCORES, "odin", *FITTED_DETECTORS)
BINS, GRID = 40, 101


@dataclass(frozen=True, kw_only=True)
class Ood(Part):
    """Out-of-distribution detection against any sets of images."""

    name: ClassVar[str] = "ood"

    sets: tuple[str, ...] = NOISES
    """gaussian-noise, uniform-noise, or NAME=FOLDER of images; NAME is free, but --ood.download's have layouts."""
    detectors: tuple[str, ...] = tuple(LOGIT_SCORES)
    """Scores, the first in detail: max-softmax, energy, entropy, max-logit, odin, mahalanobis, knn, vim, react."""
    limit: int | None = 10_000
    """Number of images of each set, chosen at random; None: all (of noise, 10,000)."""
    fit_limit: int = 10_000
    """Number of training images that mahalanobis, knn, vim and react are fitted to."""
    download: bool = False
    """Download missing sets: svhn, dtd, cifar10, cifar100, lsun-crop, lsun-resize, isun, tinyimagenet-crop, -resize."""
    seed: int = 0
    """Seed of the noise, the random crops and the choice of images."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.detectors if name not in DETECTORS]
        if unknown or not self.detectors:
            raise ValueError(f"detectors must be some of {', '.join(DETECTORS)}, got {', '.join(unknown) or 'none'}")
        names = [parse_spec(spec)[0] for spec in self.sets]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"sets must be one or more with different names, got {', '.join(names) or 'none'}")
        if self.fit_limit < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(f"limits must be at least 1, got limit={self.limit}, fit_limit={self.fit_limit}")

    def files(self) -> dict[str, Files]:
        parsed = [parse_spec(spec) for spec in self.sets]
        return {name: read_from(name, place) for name, place in parsed if place}

    def check_files(self, image_size: int | None) -> None:
        """Look for every set, and fetch it where that is asked for."""
        for spec in self.sets:
            check_set(spec, image_size=image_size, download=self.download)

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """By set: the number of images and, by detector, `ood_metrics`; histogram and ROC curve of the first one.

        Raises:
            FileNotFoundError, ValueError: a set that cannot be read; those before it are kept.
        """
        scores_of = self._scorer(subject, say)
        inside = functools.cache(lambda: scores_of(subject.test, "test images"))
        states = {name: fingerprint(*files) for name, files in self.files().items()}

        def measure(spec: str, name: str, state: str) -> dict[str, Any]:
            size, channels = subject.image_size, subject.test.channels
            outliers = _load(spec, state, size, channels, self.limit, self.download, self.seed)
            outside = scores_of(outliers, f"{len(outliers)} images of {name}")
            first = self.detectors[0]
            return {
                "images": len(outliers),
                "metrics": {d: evaluation.ood_metrics(inside()[d], outside[d]) for d in self.detectors},
                "histogram": _histogram(inside()[first], outside[first]),
                "roc": _roc(inside()[first], outside[first]),
            }

        found = {}
        for spec in self.sets:
            name, _ = parse_spec(spec)
            state = states.get(name, "")
            # Not on the other sets: one more set costs its own images alone, and those of the test set.
            depends_on = {
                "files": state,
                "detectors": self.detectors,
                "limit": self.limit,
                "fit_limit": self.fit_limit,
                "seed": self.seed,
            }
            found[name] = store.compute(name, functools.partial(measure, spec, name, state), depends_on=depends_on)
        return {
            "test_images": len(subject.test),
            "sets": found,
            "mean": {
                name: {key: fmean(one["metrics"][name][key] for one in found.values()) for key in METRICS}
                for name in self.detectors
            },
        }

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        first = next(iter(result["mean"].values()))
        return {"OOD AuROC, % ↑": 100 * first["auroc"], "OOD FPR95, % ↓": 100 * first["fpr95"]}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return ood_page.sections(results, legend.colors)

    def _scorer(self, subject: Subject, say: Callable[[str], None]) -> Callable[[data.Dataset, str], dict[str, Tensor]]:
        """The scores by detector of a data set; detectors are fitted when they are first asked for."""
        model = subject.model

        @functools.cache
        def fitted() -> dict[str, Callable[[Tensor], Tensor]]:
            names = [name for name in self.detectors if name in FITTED_DETECTORS]
            if not names:
                return {}
            if subject.train is None:
                raise ValueError(
                    f"{', '.join(names)} are fitted to training images, and those of {subject.label} are not at hand: "
                    f"choose detectors among {', '.join((*LOGIT_SCORES, 'odin'))}"
                )
            say(f"fitting {', '.join(names)}")
            order = torch.randperm(len(subject.train), generator=make_generator(self.seed, "ood", "fit"))
            loader = subject.loader(subject.train, order[: self.fit_limit].sort().values)
            z, labels = evaluation.embeddings(model, loader)
            return {name: evaluation.fit_detector(name, model, z, labels) for name in names}

        def scores(dataset: data.Dataset, what: str) -> dict[str, Tensor]:
            fits = fitted()
            say(f"scoring {what}")
            z, _ = evaluation.embeddings(model, subject.loader(dataset))
            with evaluating(model):
                logits = torch.cat([model.classifier(part) for part in z.split(4096)])
                found = {name: score(logits) for name, score in LOGIT_SCORES.items() if name in self.detectors}
                found |= {name: torch.cat([score(part) for part in z.split(4096)]) for name, score in fits.items()}
            if "odin" in self.detectors:
                say(f"perturbing {what} for ODIN")
                found["odin"] = evaluation.odin(model, subject.loader(dataset))
            return found

        return scores


# The classifiers of a page look at the same images, so they are decoded once.
@functools.lru_cache(maxsize=8)
def _load(
    spec: str, state: str, size: int, channels: int, limit: int | None, download: bool, seed: int
) -> data.Dataset:
    """The images of a set whose files are in the given state."""
    generator = make_generator(seed, "ood", parse_spec(spec)[0])
    return ood_set(spec, image_size=size, channels=channels, limit=limit, download=download, generator=generator)


def _histogram(inside: Tensor, outside: Tensor) -> dict[str, Any]:
    """Shares of both in bins that leave out no more than the outermost half per cent on either side."""
    a, b = (x.double().cpu() for x in (inside, outside))
    q = torch.tensor([0.005, 0.995], dtype=torch.float64)
    low = min(float(torch.quantile(x, q[0])) for x in (a, b))
    high = max(float(torch.quantile(x, q[1])) for x in (a, b))
    high = high if high > low else low + 1e-6

    def shares(x: Tensor) -> list[float]:
        return (torch.histc(x.clamp(low, high), BINS, low, high) / len(x)).tolist()

    return {"low": low, "high": high, "inside": shares(a), "outside": shares(b)}


def _roc(inside: Tensor, outside: Tensor) -> list[float]:
    """TPR at FPR 0, 0.01, ..., 1, on straight lines between the points of the curve."""
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    fpr, tpr = evaluation.roc_curve(inside, outside)
    right = torch.searchsorted(fpr, grid, right=True).clamp(1, len(fpr) - 1)
    left = right - 1
    width = (fpr[right] - fpr[left]).clamp(min=1e-12)
    share = ((grid - fpr[left]) / width).clamp(0, 1)
    found = torch.lerp(tpr[left], tpr[right], share)
    found[-1] = tpr[-1]  # of a piece that goes straight up, its end
    return found.tolist()
