"""Attention maps of Dense MultiMix over test images, and embedding plots: what trained models see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import methods
from ..evaluation import alignment, embeddings, uniformity
from ..evaluation.attention import attention_maps
from ..extras import require
from ..random import make_generator
from ..training import load_run
from ..training.devices import default_device
from ..training.setting import evaluation_loader, load_splits
from .overlays import data_uri, enlarge, one_of_each, overlay
from .runs import Group, Run
from .sampling import sample_classes


@dataclass(frozen=True)
class AttentionPicture:
    """A test image and its attention map, as data URIs."""

    name: str
    image: str
    overlay: str


def dense_method(method: str) -> methods.DenseMultiMix | None:
    """The Dense MultiMix inside a method, if there is one."""
    parsed = methods.parse(method).modules()
    return next((module for module in parsed if isinstance(module, methods.DenseMultiMix)), None)


def attention_pictures(run: Run) -> list[AttentionPicture]:
    """The attention that the run's own loss used, over one test image of each of ten classes.

    Raises:
        ValueError: the run was not trained with Dense MultiMix, or not on the features of the last stage.
    """
    dense = dense_method(run.config.method)
    if dense is None:
        raise ValueError(f"attention maps need a run of Dense MultiMix, got {run.config.method}")
    if dense.layer is not None:
        raise ValueError(
            f"attention maps are of the features of the last stage, but {run.config.method} attends to those of "
            f"stage {dense.layer}"
        )
    config, model = load_run(run.path, device=default_device(run.config))
    splits = load_splits(config)
    chosen = splits.test.subset(one_of_each(splits.test.labels, 10))
    device = next(model.parameters()).device
    batches = list(evaluation_loader(config, splits, chosen, device=device).batches(0))
    criterion = dense.criterion
    kind = "uniform" if criterion.attention == "uniform" else f"{criterion.attention}-{criterion.nonlinearity}"
    pictures = []
    with torch.inference_mode():
        for batch in batches:
            maps = attention_maps(model, model.features(batch.images), batch.targets, [kind])[kind].cpu()
            for image, label, a in zip(batch.images.cpu(), batch.targets.tolist(), maps, strict=True):
                pictures.append(
                    AttentionPicture(splits.class_names[label], data_uri(enlarge(image)), data_uri(overlay(image, a)))
                )
    return pictures


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
