"""Which examples the pictures of an embedding space show."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sample_classes"]


def sample_classes(labels: Tensor, classes: int, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to `per_class` random examples of each of up to `classes` random classes: indices (N,) and, for each, the
    position of its class among the chosen ones, in increasing order.

    >>> generator = torch.Generator().manual_seed(0)
    >>> indices, groups = sample_classes(torch.tensor([0, 0, 3, 3, 5]), 2, 1, generator)
    >>> len(indices), groups.tolist()
    (2, [0, 1])
    """
    present = labels.unique()
    picked = present[torch.randperm(len(present), generator=generator)[:classes]].sort().values
    parts = []
    for label in picked.tolist():
        members = (labels == label).nonzero().flatten()
        parts.append(members[torch.randperm(len(members), generator=generator)[:per_class]].sort().values)
    groups = [torch.full((len(part),), position) for position, part in enumerate(parts)]
    return torch.cat(parts), torch.cat(groups)
