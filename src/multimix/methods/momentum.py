"""A momentum encoder: a copy of the model that follows it and is not trained."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..models import SplitModel


class MomentumEncoder(nn.Module):
    """theta_k <- mu theta_k + (1 - mu) theta, after every optimiser step t = 0, 1, ...

    mu is `start` during the first tenth of `steps`, then end - (end - start) (1 + cos(pi t / steps)) / 2, from there
    on `end`. Only parameters follow; in training mode the copy normalises by the statistics of its own mini-batches.
    The position t is part of the state dictionary.

    Args:
        model: what to copy and follow.
        start, end: mu at the beginning and at the end, in [0, 1].
        steps: optimiser steps in which mu rises.

    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(4, 2))
    >>> follower = MomentumEncoder(net, start=0.9, end=1.0, steps=10)
    >>> [round(follower.momentum(t), 3) for t in (0, 5, 10, 11)]
    [0.9, 0.95, 1.0, 1.0]
    """

    def __init__(self, model: SplitModel, *, start: float, end: float, steps: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False).train()
        self.start, self.end, self.steps = start, end, steps
        self.step = 0

    def momentum(self, step: int) -> float:
        """mu of one step."""
        if step >= self.steps:
            return self.end
        if step < int(0.1 * self.steps):
            return self.start
        return self.end - (self.end - self.start) * (1 + math.cos(math.pi * step / self.steps)) / 2

    @torch.no_grad()
    def follow(self, model: SplitModel) -> None:
        """One step towards the present parameters of `model`."""
        mine: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - self.momentum(self.step))
        self.step += 1

    # The position is a plain number, since one on the device would have to be read back at every step.
    def get_extra_state(self) -> dict[str, int]:
        return {"step": self.step}

    def set_extra_state(self, state: Any) -> None:
        self.step = int(state["step"])
