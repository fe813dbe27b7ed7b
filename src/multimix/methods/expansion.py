"""Labelling of small grids by expansion moves, each the best there is."""

from __future__ import annotations

import torch
from torch import Tensor


def grid_energy(labels: Tensor, unary: Tensor, distance: Tensor) -> Tensor:
    """sum_p unary[p, l_p] + sum over neighbours of distance[l_p, l_q], for each grid of a batch.

    Args:
        labels: (b, rows, columns), int64.
        unary: (b, rows, columns, k).
        distance: (b, k, k), symmetric, zero on the diagonal.

    Returns:
        (b,)

    >>> labels, unary = torch.tensor([[[0, 1]]]), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> grid_energy(labels, unary, torch.tensor([[[0.0, 0.5], [0.5, 0.0]]]))
    tensor([5.5000])
    """
    own = unary.gather(3, labels[..., None]).sum((1, 2, 3))
    grid = torch.arange(len(labels))[:, None, None]
    down = distance[grid, labels[:, :-1], labels[:, 1:]].sum((1, 2))
    return own + down + distance[grid, labels[:, :, :-1], labels[:, :, 1:]].sum((1, 2))


def expand(labels: Tensor, unary: Tensor, distance: Tensor) -> Tensor:
    """Labels that no expansion move improves, of an energy (`grid_energy`) that is nowhere above that of `labels`.

    An expansion move gives one label to any set of positions. Here the best set is found for all labels and all grids
    at once by dynamic programming over the 2^columns states of a row, which is exact for every `distance`, a metric
    or not, and the best label's move is made. Time grows as 4^columns: meant for grids up to about five columns.
    """
    b, rows, columns, _ = unary.shape
    bits = torch.cartesian_prod(*[torch.arange(2.0, dtype=unary.dtype)] * columns).view(-1, columns)
    beside = bits[:, :-1] * bits[:, 1:]
    above = (bits[:, None] * bits).flatten(0, 1)
    grid, every = torch.arange(b), torch.arange(b)[:, None, None]
    cost = unary.permute(0, 3, 1, 2)
    while True:
        # (b, k, rows, columns): change of each position's own cost, and distance of its present label to the new one.
        own = cost - unary.gather(3, labels[..., None]).permute(0, 3, 1, 2)
        to_new = distance[every, labels].permute(0, 3, 1, 2)
        linear = own.clone()
        now = distance[every, labels[:, :, :-1], labels[:, :, 1:]][:, None]
        linear[..., :-1] += to_new[..., 1:] - now
        linear[..., 1:] += to_new[..., :-1] - now
        both_beside = now - to_new[..., 1:] - to_new[..., :-1]
        now = distance[every, labels[:, :-1], labels[:, 1:]][:, None]
        linear[:, :, :-1] += to_new[:, :, 1:] - now
        linear[:, :, 1:] += to_new[:, :, :-1] - now
        both_above = now - to_new[:, :, 1:] - to_new[:, :, :-1]

        row = linear @ bits.T + both_beside @ beside.T
        between = (both_above @ above.T).unflatten(-1, (len(bits), len(bits)))
        best, choices = row[:, :, 0], []
        for r in range(1, rows):
            best, choice = (best[..., None] + between[:, :, r - 1]).min(-2)
            best = best + row[:, :, r]
            choices.append(choice)
        change, state = best.min(-1)
        change, new = change.min(1)
        better = change < -1e-9
        if not better.any():
            return labels
        state = state[grid, new]
        states = [state]
        for choice in reversed(choices):
            state = choice[grid, new, state]
            states.append(state)
        switch = bits[torch.stack(states[::-1], 1)].bool() & better[:, None, None]
        labels = torch.where(switch, new[:, None, None], labels)
