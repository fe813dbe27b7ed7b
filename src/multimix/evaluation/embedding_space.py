"""The geometry of the embedding space: alignment and uniformity (section 4.4 of the paper), spread and rank.

The paper's values cannot come from normalised embeddings with alpha = 2 and t = 2 (on the unit sphere the
uniformity is never below -4.04 there), so normalisation and both exponents are options.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional._checks import check_tensor

_ROWS = 1024


def alignment(embeddings: Tensor, labels: Tensor, normalize: bool = False, alpha: float = 2) -> float:
    """E ||z - z'||^alpha over all pairs of distinct examples of the same class; lower is tighter.

    Wang and Isola, ICML 2020, with the pairs of supervised classification.

    Args:
        embeddings: (N, d).
        labels: (N,) class indices.
        normalize: project every embedding on the unit sphere first.
        alpha: exponent, positive.

    Raises:
        ValueError: shapes that do not fit, alpha <= 0, or no class with two examples.

    >>> alignment(torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]]), torch.tensor([0, 0, 1]))
    25.0
    """
    z = _prepare(embeddings, normalize)
    _check_labels(embeddings, labels)
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    classes = sorted(set(labels.tolist()))
    total, pairs = 0.0, 0
    for label in classes:
        members = _centred(z[labels == label])
        pairs += len(members) * (len(members) - 1)
        for first, rows in enumerate(torch.split(members, _ROWS)):
            distances = torch.cdist(rows, members)
            distances.diagonal(first * _ROWS).zero_()  # where rounding left more, a small alpha would make much of it
            total += distances.pow(alpha).sum().item()
    if not pairs:
        raise ValueError(
            f"alignment compares examples of the same class: none of the {len(classes)} classes among "
            f"{len(z)} examples has two"
        )
    return total / pairs


def uniformity(embeddings: Tensor, normalize: bool = False, t: float = 2) -> float:
    """log E exp(-t ||z - z'||^2) over all pairs of distinct examples; lower is more uniformly spread.

    Wang and Isola, ICML 2020.

    Args:
        embeddings: (N, d) with N >= 2.
        normalize: project every embedding on the unit sphere first.
        t: positive.

    Raises:
        ValueError: fewer than two embeddings, or t <= 0.

    >>> uniformity(torch.tensor([[0.0], [1.0]]), t=2)
    -2.0
    """
    z = _centred(_prepare(embeddings, normalize))
    if len(z) < 2:
        raise ValueError(f"uniformity compares pairs: embeddings need at least 2 rows, got {tuple(z.shape)}")
    if not t > 0:
        raise ValueError(f"t must be positive, got {t}")
    logs = []
    for first, rows in enumerate(torch.split(z, _ROWS)):
        exponents = torch.cdist(rows, z).square().mul(-t)
        exponents.diagonal(first * _ROWS).fill_(-math.inf)
        logs.append(exponents.flatten().logsumexp(0))
    return torch.stack(logs).logsumexp(0).item() - math.log(len(z) * (len(z) - 1))


class ClassSpread(NamedTuple):
    """How tight the classes are and how far apart; all of them squared distances, so that they add up.

    `within + between` is the mean squared distance of an example to the mean of all.
    """

    within: float
    """Compactness: mean squared distance of an example to the mean of its class; lower is tighter."""
    between: float
    """Separation: mean over examples of the squared distance of its class's mean to the mean of all."""

    @property
    def ratio(self) -> float:
        """within / between; lower is better separated, and it does not depend on the scale of the embeddings."""
        return self.within / self.between if self.between else math.inf


def class_spread(embeddings: Tensor, labels: Tensor, normalize: bool = False) -> ClassSpread:
    """Class compactness and separation: the traces of Fisher's within- and between-class covariance.

    Args:
        embeddings: (N, d).
        labels: (N,) class indices.
        normalize: project every embedding on the unit sphere first.

    Raises:
        ValueError: shapes that do not fit, or fewer than two classes.

    >>> class_spread(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
    ClassSpread(within=1.0, between=25.0)
    """
    z = _prepare(embeddings, normalize)
    _check_labels(embeddings, labels)
    classes, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"separation compares classes: labels need at least 2 classes, got {len(classes)}")
    means = z.new_zeros(len(classes), z.shape[1]).index_add_(0, inverse, z) / counts[:, None]
    within = (z - means[inverse]).square().sum(1).mean()
    between = (means[inverse] - z.mean(0)).square().sum(1).mean()
    return ClassSpread(within.item(), between.item())


def effective_rank(embeddings: Tensor, normalize: bool = False) -> float:
    """exp of the entropy of p_k = sigma_k / sum_i sigma_i, sigma the singular values of the centred embeddings.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007; they do not centre, which here keeps the common mean from
    counting as a dimension. Between 1 and min(N - 1, d): the number of dimensions that the embeddings fill.

    Args:
        embeddings: (N, d) with N >= 2.
        normalize: project every embedding on the unit sphere first.

    Raises:
        ValueError: fewer than two embeddings, or all of them equal.

    >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0
    """
    z = _prepare(embeddings, normalize)
    sigma = torch.linalg.svdvals(_centred(z))
    # What centring leaves of equal rows is rounding error.
    if len(z) < 2 or sigma[0] <= 1e-12 * max(1.0, z.norm().item()):
        raise ValueError(f"effective rank needs at least 2 different embeddings, got {len(z)} that are all equal")
    p = sigma / sigma.sum()
    return (-torch.xlogy(p, p).sum()).exp().item()


def _prepare(embeddings: Tensor, normalize: bool) -> Tensor:
    check_tensor("embeddings", embeddings)
    if embeddings.ndim != 2 or not embeddings.numel():
        raise ValueError(f"embeddings must have shape (N, d) with N, d >= 1, got {tuple(embeddings.shape)}")
    z = embeddings.detach().double()
    if wrong := len(z) - int(z.isfinite().all(dim=1).sum()):
        raise ValueError(
            f"embeddings must be finite, but {wrong} of {len(z)} are not: the weights are damaged, or training diverged"
        )
    return torch.nn.functional.normalize(z, dim=1) if normalize else z


def _centred(z: Tensor) -> Tensor:
    """With the same distances: those between points far from the origin lose their digits to it in `torch.cdist`."""
    return z - z.mean(0)


def _check_labels(embeddings: Tensor, labels: Tensor) -> None:
    check_tensor("labels", labels)
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(embeddings)},) to fit embeddings {tuple(embeddings.shape)}, "
            f"got {tuple(labels.shape)}"
        )
