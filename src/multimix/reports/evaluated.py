"""The data of finished runs, and where the runs are evaluated."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from .. import data
from ..training import Config


def default_device(config: Config) -> Literal["cpu", "cuda"]:
    """Where a run of `config` is evaluated: on the GPU unless there is none, or it asked for the CPU."""
    return "cuda" if torch.cuda.is_available() and config.accelerator in ("auto", "cuda") else "cpu"


def load_splits(config: Config) -> data.DataSplits:
    """The data of a run; the last ones loaded are kept in memory."""
    return _load_splits(
        config.data,
        config.data_root,
        config.held_out,
        config.download,
        config.per_class,
        config.val_per_class,
        config.subset_seed,
        config.image_size,
        config.bad_images,
    )


def make_test_loader(
    config: Config, splits: data.DataSplits, device: torch.device | str, subset: Tensor | None = None
) -> data.Loader:
    """The test images of a run in order; only those of `subset` (indices), where it is given."""
    test = splits.test if subset is None else splits.test.subset(subset)
    return data.loader(
        test,
        batch_size=config.batch_size,
        train=False,
        image_size=splits.image_size,
        device=device,
        workers=config.workers,
    )


@functools.lru_cache(maxsize=1)
def _load_splits(name, root, held_out, download, per_class, val_per_class, subset_seed, image_size, bad_images):  # type: ignore[no-untyped-def]
    return data.load(
        name,
        root=root,
        held_out=held_out,
        download=download,
        per_class=per_class,
        val_per_class=val_per_class,
        subset_seed=subset_seed,
        image_size=image_size,
        bad_images=bad_images,
    )
