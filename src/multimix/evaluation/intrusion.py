"""Manifold intrusion (section 4.5 of the paper): do mixed embeddings come close to classes that are not mixed?"""

from __future__ import annotations

import torch
from torch import Tensor

from .classification import class_indices

_ENTRIES = 2**24
"""Distances held at a time."""


def intrusion_distance(
    mixed: Tensor,
    targets: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    *,
    threshold: float | None = None,
    normalize: bool = False,
) -> float:
    """ID = 1/n sum over mixed embeddings of min ||z~ - z||^2 over clean embeddings z of the classes not mixed.

    The mean of `intrusion_distances`, which see for arguments and errors. Larger means farther from other classes.

    >>> mixed, targets = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.0]])
    >>> embeddings = torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    >>> intrusion_distance(mixed, targets, embeddings, torch.tensor([0, 1, 2]))
    9.0
    """
    found = intrusion_distances(mixed, targets, embeddings, labels, threshold=threshold, normalize=normalize)
    return found.mean().item()


def intrusion_distances(
    mixed: Tensor,
    targets: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    *,
    threshold: float | None = None,
    normalize: bool = False,
) -> Tensor:
    """The squared distance of every mixed embedding to the nearest clean embedding of a class that is not mixed in it.

    A class is mixed in an embedding when its weight there, the sum of lambda over its examples, is above
    `threshold`. At 0 that is every class with a part in it; a mixture of m = b examples then mixes every class of
    the mini-batch, and with few classes nothing is left to intrude on. At the default 1/c, which not all c classes
    can exceed, the distance is defined for any mixture, and for a pair it differs from 0 only where the pair is
    nearly one example.

    Args:
        mixed: (n, d) mixed embeddings.
        targets: (n, c) weight of every class in each, as mixed targets are.
        embeddings: (N, d) bank of clean embeddings, of any classes; that of a whole set, not of the mini-batch.
        labels: (N,) class indices of the bank.
        threshold: in [0, 1); default 1/c.
        normalize: project mixed and clean embeddings on the unit sphere first. The paper does not say whether it does.

    Returns:
        (n,), float64.

    Raises:
        TypeError: labels that are not integers.
        ValueError: shapes that do not fit; a label outside the c classes; a threshold outside [0, 1); a mixed
            embedding that mixes all classes of the bank.
    """
    labels = _check(mixed, targets, embeddings, labels)
    threshold = 1 / targets.shape[1] if threshold is None else threshold
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1), got {threshold}")
    z_mixed, z = mixed.detach().double(), embeddings.detach().double()
    if normalize:
        z_mixed, z = (torch.nn.functional.normalize(x, dim=1) for x in (z_mixed, z))
    mean = z.mean(0)
    z_mixed, z = z_mixed - mean, z - mean  # small distances far from the origin lose their digits to it in `cdist`
    is_mixed = targets.detach() > threshold
    present = torch.zeros_like(is_mixed[0]).index_fill(0, labels, True)
    full = (is_mixed | ~present).all(dim=1)
    if bool(full.any()):
        raise ValueError(
            f"{int(full.sum())} of {len(mixed)} mixed embeddings give every class of the bank "
            f"({int(present.sum())} classes) a weight above {threshold:g}, so that no class is left for a distance: "
            "raise the threshold, or take a bank with more classes"
        )
    parts = []
    rows = max(1, _ENTRIES // len(z))
    for part, excluded in zip(z_mixed.split(rows), is_mixed.split(rows), strict=True):
        distances = torch.cdist(part, z).masked_fill_(excluded[:, labels], torch.inf)
        parts.append(distances.amin(dim=1).square())
    return torch.cat(parts)


def _check(mixed: Tensor, targets: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    """The labels as int64, or one clear error."""
    for name, x in (("mixed", mixed), ("embeddings", embeddings)):
        if x.ndim != 2 or not x.numel():
            raise ValueError(f"{name} must have shape (N, d) with N, d >= 1, got {tuple(x.shape)}")
    if mixed.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"mixed and clean embeddings must have the same dimension, got {mixed.shape[1]} and {embeddings.shape[1]}"
        )
    if targets.ndim != 2 or len(targets) != len(mixed):
        raise ValueError(
            f"targets must have shape ({len(mixed)}, c), the weight of every class in each mixed embedding, "
            f"got {tuple(targets.shape)}"
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels must have shape ({len(embeddings)},), got {tuple(labels.shape)}")
    labels = class_indices(labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= targets.shape[1]:
        raise ValueError(
            f"labels must be class indices below c = {targets.shape[1]}, the width of targets, got {low} to {high}"
        )
    return labels
