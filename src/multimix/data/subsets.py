"""Which training examples are trained on, and which are held out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..random import make_generator

__all__ = ["choose"]


def choose(
    labels: Tensor, class_names: Sequence[str], *, per_class: int | None, held_out: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The indices to train on and the indices to hold out, each in increasing order.

    Every class is shuffled once. Training examples are taken from its front and held-out ones from its back, so
    that with one seed a larger `per_class` contains every smaller one, and neither choice moves the other.

    Args:
        labels: class indices (N,).
        class_names: one name for each class, for messages.
        per_class: training examples of each class; None takes all that are not held out.
        held_out: held-out examples of each class.
        seed: seed of the shuffles.

    Raises:
        ValueError: a class with fewer examples than asked for.

    >>> labels = torch.tensor([0, 1] * 6)
    >>> train, held_out = choose(labels, ["cat", "dog"], per_class=2, held_out=1, seed=0)
    >>> labels[train].bincount().tolist(), labels[held_out].bincount().tolist()
    ([2, 2], [1, 1])
    """
    train, held = [], []
    for label, name in enumerate(class_names):
        members = (labels == label).nonzero().flatten()
        wanted = (per_class if per_class is not None else 1) + held_out
        if len(members) < wanted:
            parts = f"per_class={per_class}" if per_class is not None else "one to train on"
            parts += f" and {held_out} to hold out" if held_out else ""
            raise ValueError(f"class {name!r} has {len(members)} training images, fewer than {parts}: ask for fewer")
        order = torch.randperm(len(members), generator=make_generator(seed, label, "subset"), device="cpu")
        front = len(members) - held_out if per_class is None else per_class
        train.append(members[order[:front]])
        held.append(members[order[len(members) - held_out :]])
    return torch.cat(train).sort().values, torch.cat(held).sort().values
