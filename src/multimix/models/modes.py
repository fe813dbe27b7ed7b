"""Training and evaluation mode, lent for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Whatever modes are set inside, every module has its own back afterwards.

    `model.train()` would not do: modules that were frozen in evaluation mode must stay so.

    >>> net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with keeping_modes(net):
    ...     _ = net.eval()
    >>> [module.training for module in net]
    [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
