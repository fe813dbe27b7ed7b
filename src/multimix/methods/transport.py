"""Transport of salient blocks to where the mask keeps them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..extras import require

ELEMENTS = 2**24
"""Entries of the cost matrices that are in memory at once."""


def distances(rows: int, columns: int) -> Tensor:
    """Squared distances between the positions of a grid, (rows columns, rows columns), in units of its longer side.

    >>> distances(1, 3)
    tensor([[0.0000, 0.2500, 1.0000],
            [0.2500, 0.0000, 0.2500],
            [1.0000, 0.2500, 0.0000]])
    """
    positions = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    squared = (positions[:, None] - positions).square().sum(-1)
    return squared / max(rows - 1, columns - 1, 1) ** 2


def block_transport(saliency: Tensor, kept: Tensor, eps: float) -> Tensor:
    """Which block of an image comes to each position, to get salient blocks to where they are kept.

    Block i at a position j that is kept costs eps distance(i, j) - saliency[i]; at one that is not, which nobody will
    see, it costs nothing. The permutation of least cost is found exactly, on the host. Most images need no search: each
    block is best off where it is.

    Args:
        saliency: (b, rows, columns), summing to 1 for each image.
        kept: (b, rows, columns) bool, where the mask is not 0.
        eps: price of a move across the whole grid.

    Returns:
        (b, rows columns), int64: the block that comes to each position, a permutation for each image.

    >>> saliency, kept = torch.tensor([[[0.9, 0.1, 0.0]]]), torch.tensor([[[False, True, True]]])
    >>> block_transport(saliency, kept, eps=0.8)
    tensor([[1, 0, 2]])
    """
    distance = distances(*saliency.shape[1:])
    size = max(1, ELEMENTS // distance.numel())
    chunks = zip(saliency.flatten(1).split(size), kept.flatten(1).split(size), strict=True)
    return torch.cat([_assign((eps * distance - s[:, :, None]) * z[:, None]) for s, z in chunks])


def _assign(cost: Tensor) -> Tensor:
    """The row of every column in the cheapest assignment, (b, k, k) -> (b, k)."""
    optimize = require("scipy.optimize", "methods")
    b, k, _ = cost.shape
    row = torch.arange(k).repeat(b, 1)
    stays = (cost.diagonal(dim1=1, dim2=2) <= cost.amin(2)).all(1)
    for i in (~stays).nonzero().flatten().tolist():
        rows, columns = optimize.linear_sum_assignment(cost[i].numpy())
        row[i, torch.from_numpy(columns)] = torch.from_numpy(rows)
    return row


def move_blocks(images: Tensor, source: Tensor, rows: int, columns: int) -> Tensor:
    """Images (b, channels, h, w) with block source[:, j] at position j of a grid of `rows` by `columns` equal blocks.

    >>> image = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    >>> move_blocks(image, torch.tensor([[1, 0]]), 1, 2).flatten().tolist()
    [3.0, 4.0, 1.0, 2.0]
    """
    b, channels, h, w = images.shape
    blocks = images.view(b, channels, rows, h // rows, columns, w // columns).permute(0, 2, 4, 1, 3, 5)
    blocks = blocks.reshape(b, rows * columns, *blocks.shape[3:])
    moved = blocks[torch.arange(b, device=images.device)[:, None], source]
    return moved.view(b, rows, columns, *moved.shape[2:]).permute(0, 3, 1, 4, 2, 5).reshape(b, channels, h, w)
