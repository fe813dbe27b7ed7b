"""Embedding plots: what trained models see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..evaluation import alignment, embeddings, uniformity
from ..extras import require
from ..random import make_generator
from ..training import load_run
from ..training.devices import default_device
from ..training.setting import evaluation_loader, load_splits
from .runs import Group, Run
from .sampling import sample_classes


@dataclass(frozen=True)
class EmbeddingPlot:
    """Test images of one run in the plane."""

    points: Any
    """(N, 2), a numpy array."""
    alignment: float
    uniformity: float
    """Both of the normalised embeddings, before the projection to the plane."""


@dataclass(frozen=True)
class Sample:
    """The test images that all embedding plots of a page show."""

    indices: Tensor
    classes: Sequence[int]
    """For every index, the position of its class in `names`."""
    names: Sequence[str]


def choose_sample(run: Run, *, classes: int = 10, per_class: int = 50) -> Sample:
    """Up to `per_class` test images of each of up to `classes` random classes."""
    splits = load_splits(run.config)
    labels = splits.test.labels
    indices, groups = sample_classes(labels, classes, per_class, make_generator("embedding", "sample"))
    return Sample(
        indices=indices,
        classes=groups.tolist(),
        names=[splits.class_names[label] for label in labels[indices].unique().tolist()],
    )


def plot_embeddings(run: Run, sample: Sample) -> EmbeddingPlot:
    """The embeddings of the sample in two dimensions, by t-SNE from a PCA start with a fixed seed."""
    np = require("numpy", "train")
    manifold = require("sklearn.manifold", "train")
    config, model = load_run(run.path, device=default_device(run.config))
    splits = load_splits(config)
    chosen, device = splits.test.subset(sample.indices), next(model.parameters()).device
    z, labels = embeddings(model, evaluation_loader(config, splits, chosen, device=device))
    z, labels = z.cpu(), labels.cpu()
    perplexity = min(30.0, (len(z) - 1) / 3)
    tsne = manifold.TSNE(init="pca", random_state=0, perplexity=perplexity, max_iter=500)
    # For so few points more threads only wait for each other.
    with require("threadpoolctl", "train").threadpool_limits(1):
        points = tsne.fit_transform(np.asarray(z, dtype=np.float32))
    return EmbeddingPlot(points, alignment(z, labels, normalize=True), uniformity(z, normalize=True))


def representatives(groups: Sequence[Group]) -> dict[str, Run]:
    """One run of every group: of the smallest seed that all have, else each one's first."""
    common = set.intersection(*(set(group.runs) for group in groups))
    return {group.label: group.runs[min(common or group.runs)] for group in groups}
