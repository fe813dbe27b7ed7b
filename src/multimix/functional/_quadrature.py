"""Nodes and weights of the one-dimensional integrals in the closed form of the expected loss.

Host-side float64 numbers that depend on alpha, m and b alone, so they are computed once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ._transforms import asked_once

P = ParamSpec("P")
_Rule = tuple[list[float], list[float]]

# The integrands are smooth in log alpha, with poles at a distance of pi from the real line.
_ALPHA_NODES_PER_E_FOLD = 2.5
_FINEST = 24


def _host(rule: Callable[P, _Rule]) -> Callable[P, _Rule]:
    """Computed once, from numbers that are numbers whatever is going on with tensors."""
    computed = functools.lru_cache(maxsize=64)(rule)

    @asked_once
    @functools.wraps(rule)
    def call(*args: P.args, **kwargs: P.kwargs) -> _Rule:
        with unset_fake_temporarily():
            return computed(*args, **kwargs)  # type: ignore[arg-type]

    return call


def effective_concentration(alpha: float, m: int, b: int) -> float:
    """Of the Dirichlet on all b examples whose second moments are those of Dir(alpha) on a random m-subset.

    >>> effective_concentration(0.7, m=8, b=8)
    0.7
    >>> effective_concentration(1.0, m=1, b=8)  # one-hot weights
    0.0
    """
    return alpha if m == b else alpha * (m - 1) / (b - 1 + alpha * (b - m))


@_host
def concentrations(low: float, high: float, m: int, b: int) -> _Rule:
    """Nodes and weights of the mean over alpha ~ U[low, high] of a function of the effective concentration."""
    if low == high:
        return [effective_concentration(low, m, b)], [1.0]
    span = math.log1p((high - low) / low)
    y, w = _gauss(*_legendre(4 + math.ceil(_ALPHA_NODES_PER_E_FOLD * span)))
    alphas = low * (span * y).exp()
    weights = w * alphas / (w * alphas).sum()
    return [effective_concentration(alpha, m, b) for alpha in alphas.tolist()], weights.tolist()


@_host
def exponential_over_concentration(count: int, low: float, high: float, m: int, b: int) -> _Rule:
    """Nodes and weights for x = E / alpha, with E ~ Exp(1) and alpha the effective concentration at U[low, high].

    They are those that integrate polynomials in u = 1 - exp(-x / b) exactly: a variable from Beta(1, b alpha).
    """
    alphas, weights = concentrations(low, high, m, b)
    rules = [
        _gauss(*_jacobi(_FINEST if len(alphas) > 1 and m > 1 else count, max(b * alpha, 1e-30))) for alpha in alphas
    ]
    if len(rules) == 1 or m == 1:
        u, w = rules[0]
    else:
        points = torch.cat([rule[0] for rule in rules])
        measure = torch.cat([weight * rule[1] for rule, weight in zip(rules, weights, strict=True)])
        scale = (points * measure).sum()
        y, w = _gauss(*_recurrence(points / scale, measure, count))
        u = scale * y
    x = -b * torch.log1p(-u.clamp(max=1 - torch.finfo(u.dtype).eps))
    return x.tolist(), w.tolist()


@_host
def unit_interval(count: int) -> _Rule:
    """The Gauss-Legendre rule on (0, 1)."""
    y, w = _gauss(*_legendre(count))
    return y.tolist(), w.tolist()


def _gauss(diagonal: Tensor, off_diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Golub and Welsch: nodes are the eigenvalues of the Jacobi matrix, weights the first components squared."""
    jacobi = torch.diag(diagonal) + torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return nodes, vectors[0].square()


def _legendre(count: int) -> tuple[Tensor, Tensor]:
    k = torch.arange(1, count, dtype=torch.float64, device="cpu")
    return torch.full((count,), 0.5, dtype=torch.float64, device="cpu"), 0.5 * k / (4 * k.square() - 1).sqrt()


def _jacobi(count: int, k: float) -> tuple[Tensor, Tensor]:
    """For Beta(1, k), written so that k may be tiny."""
    n = torch.arange(1, count, dtype=torch.float64, device="cpu")
    diagonal = -((k - 1) ** 2) / ((2 * n + k - 1) * (2 * n + k + 1))
    first = torch.tensor([(1 - k) / (1 + k)], dtype=torch.float64, device="cpu")
    ratio = (n - 1 + k) / (2 * n - 2 + k)
    squared = 4 * n.square() * (n + k - 1) * ratio / ((2 * n + k - 1).square() * (2 * n + k))
    return (torch.cat([first, diagonal]) + 1) / 2, squared.sqrt() / 2


def _recurrence(points: Tensor, measure: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first recurrence coefficients of the polynomials orthogonal under a discrete measure (Stieltjes)."""
    diagonal, off_diagonal = [], [points.new_zeros(())]
    before, now = torch.zeros_like(points), torch.ones_like(points) / measure.sum().sqrt()
    for _ in range(count):
        diagonal.append((measure * points * now.square()).sum())
        after = (points - diagonal[-1]) * now - off_diagonal[-1] * before
        off_diagonal.append((measure * after.square()).sum().sqrt())
        before, now = now, after / off_diagonal[-1]
    return torch.stack(diagonal), torch.stack(off_diagonal[1:-1])
