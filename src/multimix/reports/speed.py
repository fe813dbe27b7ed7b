"""The speed of a training step of every method, measured in turns in one process.

The runs of a comparison share the machine, so their own images per second say more about each other than about
the methods.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from .. import data, methods, models
from ..benchmarking.measure import interleaved, median_ratio
from ..methods import Either, Method
from ..models import SplitModel
from ..random import make_generator
from ..training import Config, TrainingStep
from ..training.devices import connect
from ..training.optimizers import make_optimizer
from .evaluated import load_splits

ROUNDS = 9
SECONDS = 8.0
"""About how long to measure in all; slow models take as long as a few steps take."""
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Speed:
    """Training speed of one method."""

    images_per_second: float
    relative: float | None
    """Speed over ERM's, the median over rounds of the ratio within a round; None where ERM was not measured."""


def measure_speed(
    configs: Mapping[str, Config], *, device: Device, baseline: str = "erm"
) -> tuple[dict[str, Speed], str]:
    """Time whole training steps (forward, loss, backward, optimiser) on one real batch, without data loading.

    A method that tosses a coin for every mini-batch counts with its expected time: its parts are timed apart and
    weighted with their probabilities, where timing the mixture would need very many steps.

    Args:
        configs: the configuration of each method.
        device: "cpu" or "cuda".
        baseline: the key that the others are compared with.

    Returns:
        The speed of each, and a sentence that says how it was measured.
    """
    parts = {name: _steps(config, device) for name, config in configs.items()}
    steps = {(name, k): step for name, found in parts.items() for k, (_, step) in enumerate(found)}
    for step in steps.values():
        step()
    began = time.perf_counter()
    for step in steps.values():
        step()
    once = time.perf_counter() - began
    block = min(25, max(1, int(SECONDS / ROUNDS / once)))
    times = interleaved(
        {str(key): functools.partial(_repeat, step, block) for key, step in steps.items()},
        rounds=ROUNDS,
        device=device,
    )
    expected = {
        name: [
            math.fsum(weight * times[str((name, k))][r] / block for k, (weight, _) in enumerate(found))
            for r in range(ROUNDS)
        ]
        for name, found in parts.items()
    }
    speeds = {}
    for name, config in configs.items():
        relative = None if baseline not in expected else median_ratio(expected[baseline], expected[name])
        speeds[name] = Speed(config.batch_size / statistics.median(expected[name]), relative)
    threads = torch.get_num_threads()
    where = "one GPU" if device == "cuda" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
    how = (
        f"Speed is of whole training steps on one real batch without data loading, in one process on {where} after "
        f"the runs, the methods taking turns: the median of {ROUNDS} rounds of {block} "
        f"step{'s' if block > 1 else ''}; for methods that toss a coin, the expected time."
    )
    return speeds, how


def expand(method: Method) -> list[tuple[float, Method]]:
    """The methods among which `method` chooses for every mini-batch, with their probabilities.

    >>> from multimix.methods import parse
    >>> [(p, type(part).__name__) for p, part in expand(parse("either(cutmix, multimix, p=0.2)"))]
    [(0.2, 'CutMix'), (0.4, 'MultiMix'), (0.4, 'InputMixup')]
    """
    if not isinstance(method, Either):
        return [(1.0, method)]
    return [
        (share * weight, part)
        for share, side in ((method.p, method.a), (1 - method.p, method.b))
        for weight, part in expand(side)
        if share > 0
    ]


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _steps(config: Config, device: Device) -> list[tuple[float, Callable[[], None]]]:
    """The optimiser steps among which the method of `config` chooses, on one model and the first batch of its data."""
    fabric = connect(replace(config, accelerator=device, devices=1, nodes=1))
    fabric.launch()
    splits = load_splits(config)
    train = data.loader(
        splits.train,
        batch_size=config.batch_size,
        train=True,
        augment=config.augment,
        image_size=splits.image_size,
        seed=config.seed,
        device=fabric.device,
        workers=0,
    )
    batch = next(iter(train.batches(0)))
    model = models.build(
        config.model,
        num_classes=splits.num_classes,
        image_size=splits.image_size,
        mean=splits.mean,
        std=splits.std,
        generator=make_generator(config.seed, "init"),
    ).to(fabric.device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
        batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
    method = methods.parse(config.method)
    method.setup(model)
    return [(weight, _step(fabric, config, model, part, batch)) for weight, part in expand(method)]


def _step(fabric: Any, config: Config, model: SplitModel, method: Method, batch: data.Batch) -> Callable[[], None]:
    step = TrainingStep(model, method)
    module, optimizer = fabric.setup(step, make_optimizer(step, config, device=fabric.device))
    generator = make_generator(config.seed, "speed")
    extras = {name: batch.extras[name] for name in method.needs}
    for group in optimizer.param_groups:
        # The weights must stay finite however long this takes; the time of a step does not depend on the rate.
        group["lr"] = 1e-4 * config.lr

    def step_once() -> None:
        loss, _ = module(batch.images, batch.targets, generator, extras)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(model)

    return step_once
