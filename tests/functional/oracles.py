"""The paper's equations as Python loops over float64 numbers, and random inputs for them.

Nothing here calls the package: what the tests compare it with must not share its mistakes.
"""

import math

import torch
from torch import Tensor


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Float64 normal variates."""
    return scale * torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def simplex(*shape: int, seed: int) -> Tensor:
    """Float64 rows on the simplex."""
    weights = torch.rand(shape, generator=rng(seed), dtype=torch.float64) + 0.01
    return weights / weights.sum(-1, keepdim=True)


def make_targets(kind: str, b: int, c: int, seed: int = 0) -> Tensor:
    """Targets of one kind: "index", "soft" (rows sum to 1) or "any sum" (rows do not)."""
    if kind == "index":
        return torch.randint(c, (b,), generator=rng(seed))
    if kind == "soft":
        return simplex(b, c, seed=seed)
    return torch.rand(b, c, generator=rng(seed), dtype=torch.float64) * 1.7


def rows_of(targets: Tensor, c: int) -> list[list[float]]:
    """Targets as rows of probabilities: y of the equations."""
    if targets.is_floating_point():
        return targets.double().tolist()
    return [[float(label == k) for k in range(c)] for label in targets.tolist()]


def cross_entropy(y: list[float], z: list[float]) -> float:
    """-sum_k y_k log softmax(z)_k, one term of (1)."""
    top = max(z)
    lse = top + math.log(sum(math.exp(v - top) for v in z))
    return -sum(p * (v - lse) for p, v in zip(y, z, strict=True))


def combine(weights: list[float], rows: list[list[float]]) -> list[float]:
    """sum_i weights_i rows_i: one column of (6), (7), (12) or (13)."""
    return [sum(w * row[k] for w, row in zip(weights, rows, strict=True)) for k in range(len(rows[0]))]


def loss_loop(logits: Tensor, targets: Tensor, lam: Tensor, weight: Tensor | None, normalize: str) -> float:
    """(14) at each position of logits (r, b, c), lam (r, n, b) and weight (r, n); (8) where the weights are equal."""
    y = rows_of(targets, logits.shape[-1])
    sums, totals = [], []
    for j in range(logits.shape[0]):
        z, rows = logits[j].double().tolist(), lam[j].double().tolist()
        s = [1.0] * len(rows) if weight is None else weight[j].double().tolist()
        terms = [cross_entropy(combine(row, y), combine(row, z)) for row in rows]
        sums.append(sum(w * term for w, term in zip(s, terms, strict=True)))
        totals.append(sum(s))
    if normalize == "none":
        return sum(sums)
    if normalize == "global":
        return sum(sums) / sum(totals) if sum(totals) else 0.0
    present = [a / b for a, b in zip(sums, totals, strict=True) if b]
    return sum(present) / len(present) if present else 0.0


def attention_loop(
    features: Tensor, by: str, nonlinearity: str, targets: Tensor | None, weight: Tensor | None
) -> list[list[float]]:
    """(9) for features (b, r, d); `weight` holds the columns of the paper's W as rows."""
    maps = []
    for i, z in enumerate(features.double().tolist()):
        r, d = len(z), len(z[0])
        if by == "uniform":
            maps.append([1 / r] * r)
            continue
        if by == "gap":
            u = [sum(position[k] for position in z) / r for k in range(d)]
        else:
            u = combine(rows_of(targets, weight.shape[0])[i], weight.double().tolist())
        scores = [sum(p * q for p, q in zip(position, u, strict=True)) for position in z]
        if nonlinearity == "softmax":
            positive = [math.exp(score - max(scores)) for score in scores]
        else:
            positive = [max(score, 0.0) for score in scores]
        total = sum(positive)
        maps.append([p / total for p in positive] if total else [1 / r] * r)
    return maps


def attend_loop(lam: Tensor, a: Tensor) -> tuple[list[list[list[float]]], list[list[float]]]:
    """(10) and (11) for lam (r, n, b) and a (b, r): the columns of M-hat, and their l1 norms before."""
    hats, norms = [], []
    for j, rows in enumerate(lam.double().tolist()):
        column = a.double()[:, j].tolist()
        M = [[weight * x for weight, x in zip(row, column, strict=True)] for row in rows]
        norms.append([sum(row) for row in M])
        hats.append([[x / sum(row) if sum(row) else 0.0 for x in row] for row in M])
    return hats, norms


def direct_loss(mixed_logits: Tensor, mixed_targets: Tensor, weight: Tensor | None, normalize: str) -> Tensor:
    """(14) by PyTorch's own cross entropy, from mixed logits (r, n, c) and targets (r, n, c): for gradients."""
    r, n, c = mixed_logits.shape
    terms = torch.nn.functional.cross_entropy(
        mixed_logits.reshape(-1, c), mixed_targets.reshape(-1, c), reduction="none"
    ).view(r, n)
    weight = torch.ones_like(terms) if weight is None else weight
    if normalize == "none":
        return (weight * terms).sum()
    if normalize == "global":
        return (weight * terms).sum() / weight.sum()
    return ((weight * terms).sum(1) / weight.sum(1)).mean()


def one_hot(targets: Tensor, c: int) -> Tensor:
    """Targets as float64 probabilities."""
    if targets.is_floating_point():
        return targets.double()
    return torch.nn.functional.one_hot(targets.long(), c).double()
