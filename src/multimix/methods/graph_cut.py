"""Exact labelling of many grids at once by maximum flows."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..extras import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Integers = NDArray[np.integer]

POSITIONS = 1024
"""Positions in one graph. With many more, the flow is slowed down by the processor's cache (measured: fourfold at 32
times as many); with many fewer, the time goes into making graphs."""


def labelling(unary: Floats, down: Floats, right: Floats) -> Integers:
    """The labels l (b, rows, columns) that minimise, for every grid of the batch, the convex energy

        E(l) = sum_p unary[p, l_p] + sum_{p above q} down[p] (l_p - l_q)^2 + sum_{p left of q} right[p] (l_p - l_q)^2.

    A label is written as the sum of k - 1 ordered binary variables, x_a = [l >= a]. Then (l_p - l_q)^2 is, up to terms
    of one position, the sum of |x_pa - x_qb| over all a and b, so that the minimum is a minimum cut (Ishikawa, PAMI
    2003). The grids are the components of a few graphs, which are cut in parallel by as many threads as torch uses.

    Args:
        unary: (b, rows, columns, k), cost of each label at each position.
        down: (b, rows - 1, columns), weights >= 0 between a position and the one below it.
        right: (b, rows, columns - 1), weights >= 0 between a position and the one to its right.

    Returns:
        Labels 0 .. k - 1, int64.

    Raises:
        ValueError: a negative weight, for which the energy is not convex.

    >>> import numpy as np
    >>> unary = np.array([[[[0.0, 1.0, 2.0], [0.2, 0.1, 0.0]]]])
    >>> no_rows = np.zeros((1, 0, 2))
    >>> labelling(unary, no_rows, np.array([[[0.0]]])).tolist(), labelling(unary, no_rows, np.array([[[1.0]]])).tolist()
    ([[[0, 2]]], [[[0, 0]]])
    """
    np = require("numpy", "methods")
    if min(down.min(initial=0), right.min(initial=0)) < 0:
        raise ValueError("the weights between positions must not be negative: the energy would not be convex")
    b, rows, columns, _ = unary.shape
    size = max(1, POSITIONS // (rows * columns))
    parts = [slice(start, start + size) for start in range(0, b, size)]

    def solve(part: slice) -> Integers:
        return _minimum_cut(unary[part], down[part], right[part])

    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
        return np.concatenate([solve(part) for part in parts])
    with ThreadPoolExecutor(threads) as pool:  # PyMaxflow releases the interpreter lock
        return np.concatenate(list(pool.map(solve, parts)))


def energy(labels: Integers, unary: Floats, down: Floats, right: Floats) -> Floats:
    """E(labels) of `labelling`, (b,).

    >>> import numpy as np
    >>> energy(np.array([[[0, 2]]]), np.ones((1, 1, 2, 3)), np.zeros((1, 0, 2)), np.array([[[0.5]]]))
    array([4.])
    """
    np = require("numpy", "methods")
    total: Floats = np.take_along_axis(unary, labels[..., None], -1).sum((1, 2, 3))
    total = total + (down * np.diff(labels, axis=1) ** 2).sum((1, 2))
    return total + (right * np.diff(labels, axis=2) ** 2).sum((1, 2))


def _minimum_cut(unary: Floats, down: Floats, right: Floats) -> Integers:
    maxflow, np = require("maxflow", "methods"), require("numpy", "methods")
    b, rows, columns, k = unary.shape
    level = np.arange(k)
    # The terms of one position in the sum over a and b of |x_pa - x_qb|, moved into its unary cost.
    degree = np.zeros((b, rows, columns))
    degree[:, :-1] += down
    degree[:, 1:] += down
    degree[:, :, :-1] += right
    degree[:, :, 1:] += right
    step = np.diff(unary + degree[..., None] * (level**2 - (k - 1) * level), axis=-1).ravel()

    topology = _topology(b, rows, columns, k - 1)
    weight = np.repeat(np.concatenate([down.ravel(), right.ravel()]).astype(float), (k - 1) ** 2)
    count = len(topology.nodes)
    graph = maxflow.GraphFloat(count, len(weight) + len(topology.lower))
    graph.add_nodes(count)
    graph.add_grid_tedges(topology.nodes, np.maximum(step, 0), np.maximum(-step, 0))
    graph.add_edges(topology.tails, topology.heads, weight, weight)
    # x_a = 0 with x_(a+1) = 1 is not a label: it costs more than all else together.
    forbidden = np.full(len(topology.lower), 1.0 + np.abs(step).sum() + weight.sum())
    graph.add_edges(topology.lower, topology.upper, forbidden, np.zeros_like(forbidden))
    graph.maxflow()
    labels: Integers = graph.get_grid_segments(topology.nodes).reshape(b, rows, columns, k - 1).sum(-1)
    return labels


class _Topology(NamedTuple):
    nodes: Integers
    tails: Integers
    heads: Integers
    lower: Integers
    upper: Integers


@functools.lru_cache(maxsize=16)
def _topology(b: int, rows: int, columns: int, levels: int) -> _Topology:
    """The nodes, the pairs of nodes at neighbouring positions (all levels with all levels), and the pairs of
    consecutive levels at one position."""
    np = require("numpy", "methods")
    node = np.arange(b * rows * columns * levels).reshape(b, rows, columns, levels)

    def pairs(first: Integers, second: Integers) -> tuple[Integers, Integers]:
        shape = (*first.shape, levels)
        return np.broadcast_to(first[..., None], shape).ravel(), np.broadcast_to(second[..., None, :], shape).ravel()

    vertical, horizontal = pairs(node[:, :-1], node[:, 1:]), pairs(node[:, :, :-1], node[:, :, 1:])
    tails, heads = (np.concatenate(ends) for ends in zip(vertical, horizontal, strict=True))
    return _Topology(node.ravel(), tails, heads, node[..., :-1].ravel(), node[..., 1:].ravel())
