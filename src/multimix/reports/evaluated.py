"""The data of finished runs, and where the runs are evaluated."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor

from .. import data
from ..training import Config
from ..training.setting import data_options, evaluation_loader


def default_device(config: Config) -> Literal["cpu", "cuda"]:
    """Where a run of `config` is evaluated: on the GPU unless there is none, or it asked for the CPU."""
    return "cuda" if torch.cuda.is_available() and config.accelerator in ("auto", "cuda") else "cpu"


def load_splits(config: Config) -> data.DataSplits:
    """The data of a run; the last ones loaded are kept in memory."""
    return _load(**data_options(config))


def make_test_loader(
    config: Config, splits: data.DataSplits, device: torch.device | str, subset: Tensor | None = None
) -> data.Loader:
    """The test images of a run in order; only those of `subset` (indices), where it is given."""
    test = splits.test if subset is None else splits.test.subset(subset)
    return evaluation_loader(config, splits, test, device=device)


@functools.lru_cache(maxsize=1)
def _load(**options: Any) -> data.DataSplits:
    return data.load(**options)
