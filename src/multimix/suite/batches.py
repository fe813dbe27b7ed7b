"""Which test images a costly part looks at, and reading them batch by batch as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import data
from ..random import make_generator
from .part import Subject


def balanced_order(labels: Tensor, *, seed: int) -> Tensor:
    """An order of the examples (N,) of which every beginning has as many of each class as can be.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    >>> labels[balanced_order(labels, seed=0)].tolist()
    [0, 1, 2, 0, 1, 0, 0]
    """
    shuffled = torch.randperm(len(labels), generator=make_generator(seed, "subset"))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    turn = torch.arange(len(labels)) - first[labels[by_class]]
    return by_class[turn.argsort(stable=True)]


def choose(labels: Tensor, limit: int | None, *, seed: int) -> Tensor:
    """The indices, in increasing order, of `limit` examples with equally many of each class; None or more than there
    are: all."""
    return balanced_order(labels, seed=seed)[:limit].sort().values


def one_of_each(labels: Tensor, count: int) -> Tensor:
    """The indices of the first example of each of `count` classes, spread over all classes.

    >>> one_of_each(torch.tensor([2, 0, 0, 1, 2]), 2).tolist()
    [1, 0]
    """
    present = labels.unique()
    picked = present[torch.linspace(0, len(present) - 1, min(count, len(present))).round().long()]
    return torch.stack([(labels == label).nonzero()[0, 0] for label in picked])


def check_limit(limit: int | None) -> None:
    """Raise ValueError for a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit counts test images, so it must be at least 1, or None for all; got {limit}")


def described(count: int, total: int) -> str:
    """What `choose` has chosen, in words.

    >>> described(1000, 1000), described(100, 1000)
    ('all 1,000 test images', '100 of 1,000 test images, equally many of each class')
    """
    if count == total:
        return f"all {count:,} test images"
    return f"{count:,} of {total:,} test images, equally many of each class"


class Batches:
    """The batches of some test images of a subject by number: read in order without starting anew, and only those that
    are asked for, so that an evaluation which continues does not read what it has no use for."""

    def __init__(self, subject: Subject, indices: Tensor) -> None:
        self._loader = subject.loader(subset=indices)
        self._iterator: Iterator[data.Batch] = iter(())
        self._next = -1
        self._size = subject.batch_size
        self._current: data.Batch | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def key(self, name: str, number: int) -> str:
        """Under which what `name` says of a batch is kept. Batches of another size hold other images."""
        return f"{name}, batch {number} of size {self._size}"

    def __getitem__(self, number: int) -> data.Batch:
        if self._current is None or number != self._next - 1:
            if number != self._next:
                self._iterator = self._loader.batches(0, start=number)
            self._current = next(self._iterator)
            self._next = number + 1
        return self._current
