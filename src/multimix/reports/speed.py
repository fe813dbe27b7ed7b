"""The training speed of the methods of a comparison, measured in turns in one process.

The runs of a comparison share the machine, so their own images per second say more about each other than about
the methods.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch

from .. import methods
from ..benchmarking.measure import median_ratio
from ..benchmarking.methods import Speed, Steps, expected_times, one_pass, steps
from ..training import Config
from ..training.devices import connect
from ..training.setting import build_model, load_splits, train_loader
from .runs import BASELINE

ROUNDS = 9
SECONDS = 8.0
"""About how long to measure in all; slow models take as long as a few steps take."""
Device = Literal["cpu", "cuda"]


def measure_speed(configs: Mapping[str, Config], *, device: Device) -> tuple[dict[str, Speed], str]:
    """Time whole training steps (forward, loss, backward, optimiser) on one real batch, without data loading.

    Args:
        configs: the configuration of each method; "erm" is what the others are compared with. Of batches that are
            accumulated, or divided over devices, what passes through the network at a time is timed.
        device: "cpu" or "cuda".

    Returns:
        The speed of each, and a sentence that says how it was measured.
    """
    passes = {name: one_pass(config) for name, config in configs.items()}
    measured = {name: steps_of(config, device) for name, config in passes.items()}
    expected, block = expected_times(measured, rounds=ROUNDS, device=device, seconds=SECONDS)
    rounds = len(next(iter(expected.values())))
    speeds = {}
    for name, config in passes.items():
        relative = None if BASELINE not in expected else median_ratio(expected[BASELINE], expected[name])
        speeds[name] = Speed(config.batch_size / statistics.median(expected[name]), relative)
    threads = torch.get_num_threads()
    batch = "batch" if passes == configs else "micro-batch"
    where = "one GPU" if device == "cuda" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
    how = (
        f"Speed is of whole training steps on one real {batch} without data loading, in one process on {where} after "
        f"the runs, the methods taking turns: the median of {rounds} rounds of {block} "
        f"step{'s' if block > 1 else ''}; for methods that toss a coin, the expected time."
    )
    return speeds, how


def steps_of(config: Config, device: Device) -> Steps:
    """The optimiser steps among which the method of `config` chooses, on one model and the first batch of its data."""
    fabric = connect(replace(config, accelerator=device))
    fabric.launch()
    splits = load_splits(config)
    batch = next(iter(train_loader(replace(config, workers=0), splits, device=fabric.device).batches(0)))
    model = build_model(config, splits).to(fabric.device)
    return steps(fabric, config, model, methods.parse(config.method), batch)
