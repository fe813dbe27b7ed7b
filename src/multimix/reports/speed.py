"""The speed of a training step of every method, measured in turns in one process.

The runs of a comparison share the machine, so their own images per second say more about each other than about
the methods.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .. import data, methods, models
from ..benchmarking.measure import interleaved
from ..random import make_generator
from ..training import Config, TrainingStep
from ..training.devices import connect
from ..training.optimizers import make_optimizer
from .evaluated import load_splits

ROUNDS = 9


@dataclass(frozen=True)
class Speed:
    """Training speed of one method."""

    images_per_second: float
    relative: float | None
    """Speed over ERM's, the median over rounds of the ratio within a round; None where ERM was not measured."""


def measure_speed(
    configs: Mapping[str, Config], *, device: Literal["cpu", "cuda"], baseline: str = "erm", seconds: float = 12.0
) -> tuple[dict[str, Speed], str]:
    """Time whole training steps (forward, loss, backward, optimiser) on one real batch, without data loading.

    Every round times a block of several steps of each method in turn, since a method may toss a coin for every
    mini-batch.

    Args:
        configs: the configuration of each method.
        device: "cpu" or "cuda".
        baseline: the key that the others are compared with.
        seconds: how long to measure; slow models take as long as a few steps take.

    Returns:
        The speed of each, and a sentence that says how it was measured.
    """
    steps = {name: _step(config, device) for name, config in configs.items()}
    for step in steps.values():
        step()
    began = time.perf_counter()
    for step in steps.values():
        step()
    once = time.perf_counter() - began
    block = min(25, max(4, int(seconds / ROUNDS / once)))

    def repeat(step: Callable[[], None]) -> Callable[[], None]:
        def block_of_steps() -> None:
            for _ in range(block):
                step()

        return block_of_steps

    times = interleaved({name: repeat(step) for name, step in steps.items()}, rounds=ROUNDS, device=device)
    speeds = {}
    for name, config in configs.items():
        relative = None
        if baseline in times:
            relative = statistics.median(a / b for a, b in zip(times[baseline], times[name], strict=True))
        speeds[name] = Speed(config.batch_size * block / statistics.median(times[name]), relative)
    threads = torch.get_num_threads()
    where = "one GPU" if device == "cuda" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
    how = (
        f"Speed: whole training steps on one real batch in one process on {where}, after the runs, the methods taking "
        f"turns; median of {ROUNDS} rounds of {block} steps each, without data loading."
    )
    return speeds, how


def _step(config: Config, device: Literal["cpu", "cuda"]) -> Callable[[], None]:
    """One optimiser step of `config` on its own model and the first batch of its data, as training makes it."""
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
    images = batch.images
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    method = methods.parse(config.method)
    method.setup(model)
    step = TrainingStep(model, method)
    module, optimizer = fabric.setup(step, make_optimizer(step, config, device=fabric.device))
    generator = make_generator(config.seed, "speed")
    extras = {name: batch.extras[name] for name in method.needs}
    for group in optimizer.param_groups:
        # The weights must stay finite however long this takes; the time of a step does not depend on the rate.
        group["lr"] = 1e-4 * config.lr

    def step_once() -> None:
        loss, _ = module(images, batch.targets, generator, extras)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(model)

    return step_once
