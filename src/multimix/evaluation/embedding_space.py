"""The geometry of the embedding space: alignment and uniformity (section 4.4 of the paper).

The paper's values cannot come from normalised embeddings with alpha = 2 and t = 2 (on the unit sphere the
uniformity is never below -4.04 there), so normalisation and both exponents are options.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(z)},) to fit embeddings {tuple(embeddings.shape)}, got {tuple(labels.shape)}"
        )
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    classes = sorted(set(labels.tolist()))
    total, pairs = 0.0, 0
    for label in classes:
        members = z[labels == label]
        pairs += len(members) * (len(members) - 1)
        for rows in torch.split(members, _ROWS):
            # The distance of an example to itself is 0, so it adds nothing to the sum.
            total += torch.cdist(rows, members).pow(alpha).sum().item()
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
    z = _prepare(embeddings, normalize)
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


def _prepare(embeddings: Tensor, normalize: bool) -> Tensor:
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(f"embeddings must have shape (N, d) with N >= 1, got {tuple(embeddings.shape)}")
    z = embeddings.detach().double()
    return torch.nn.functional.normalize(z, dim=1) if normalize else z
