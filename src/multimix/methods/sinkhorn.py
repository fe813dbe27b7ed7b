"""Entropic optimal transport between two sets of as many points, for a whole mini-batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional._checks import mixing_dtype


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Between all points of x (b, r, d) and y (b, q, d): (b, r, q), in float32 or better."""
    dtype = mixing_dtype(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(dtype), y.to(dtype)
        # Distances do not depend on the origin, but rounding errors of the expanded square grow with the norms.
        centre = x.mean(1, keepdim=True)
        x, y = x - centre, y - centre
        cross = torch.baddbmm(y.square().sum(2)[:, None], x, y.mT, alpha=-2)
        return (cross + x.square().sum(2)[:, :, None]).clamp(min=0)


@torch.no_grad()
def sinkhorn(cost: Tensor, eps: float = 0.1, *, max_iter: int = 100, tolerance: float = 0.1) -> Tensor:
    """The plan P that minimises <P, cost> - eps H(P) among those with uniform marginals (Cuturi, NeurIPS 2013).

    Sinkhorn iterations on the logarithms, which neither over- nor underflow for any ratio of cost to eps. Every problem
    of the batch stops by itself, so its plan does not depend on what it is batched with. On an accelerator the
    iterations after the last stop are run, to no effect, because asking whether all have stopped would stall it.

    Args:
        cost: (b, r, q).
        eps: of the entropy, in units of the cost.
        max_iter: iterations at most.
        tolerance: a problem stops when the potentials of its rows change by less than this in total, in units of the
            cost. Columns then sum to 1/q exactly, and log row sums are off by tolerance / eps in total.

    Returns:
        (b, r, q), in the dtype of the cost (float32 or better), without gradient.

    >>> sinkhorn(torch.tensor([[[0.0, 9.0], [9.0, 0.0]]])).round(decimals=3)
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    if cost.ndim != 3:
        raise ValueError(f"cost must be (b, r, q), got {tuple(cost.shape)}")
    K = -cost.to(mixing_dtype(cost.dtype)) / eps
    b, r, q = K.shape
    u, v = K.new_zeros(b, r, 1), K.new_zeros(b, 1, q)
    running = torch.ones(b, 1, 1, dtype=torch.bool, device=K.device)
    for _ in range(max_iter):
        u_next = -math.log(r) - (K + v).logsumexp(2, keepdim=True)
        v_next = -math.log(q) - (K + u_next).logsumexp(1, keepdim=True)
        moved = (u_next - u).abs().sum(1, keepdim=True)
        u, v = torch.where(running, u_next, u), torch.where(running, v_next, v)
        running = running & (eps * moved >= tolerance)
        if K.device.type == "cpu" and not bool(running.any()):
            break
    return (K + u + v).exp()
