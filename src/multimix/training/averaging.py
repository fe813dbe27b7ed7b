"""Exponential moving average of the weights."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch

from ..models.split_model import SplitModel

__all__ = ["MovingAverage"]


class MovingAverage:
    """A copy of a model that follows its weights: at update t = 0, 1, ... it keeps a share min(decay, t / (t + 9)).

    A fixed decay would keep the random initial weights for about 1 / (1 - decay) steps, longer than a short run
    takes; this one starts as a copy and forgets ever more slowly. Floating-point buffers are averaged too, since
    the statistics of batch normalisation belong to the weights; counters are copied.

    torch.optim.swa_utils.AveragedModel does the same, but reads its counter back from the device at every step.

    >>> from torch import nn
    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(4, 2))
    >>> average = MovingAverage(net, decay=0.9)
    >>> average.update(net)
    >>> bool((average.model.classifier.weight == net.classifier.weight).all())
    True
    """

    def __init__(self, model: SplitModel, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: SplitModel) -> None:
        """Move towards the present weights of `model`."""
        mine = list(chain(self.model.parameters(), self.model.buffers()))
        theirs = list(chain(model.parameters(), model.buffers()))
        averaged = [(a, b) for a, b in zip(mine, theirs, strict=True) if a.is_floating_point()]
        counters = [(a, b) for a, b in zip(mine, theirs, strict=True) if not a.is_floating_point()]
        weight = 1 - min(self.decay, self.updates / (self.updates + 9))
        torch._foreach_lerp_([a for a, _ in averaged], [b for _, b in averaged], weight)
        if counters:
            torch._foreach_copy_([a for a, _ in counters], [b for _, b in counters])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
