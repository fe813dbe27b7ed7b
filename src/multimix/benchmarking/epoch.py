"""How many epochs a minute: our training loop, the network alone, and loops of others, in turns in one process."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from ..data import ArrayDataset, DataSplits
from ..random import make_generator
from ..training import Config
from ..training.devices import connect
from ..training.repeatability import borrowed_global_state
from . import peers
from .measure import Ratio, interleaved, ratio
from .own_loop import Steps, network_alone, training_loop

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    loop: str
    method: str
    images_per_second: float
    """The median over rounds."""
    epochs_per_minute: float
    """Of that rate, without evaluation and checkpoints."""
    ours_is_faster: Ratio | None
    """Our images per second with the same method over this loop's, within a round; None for ours."""


def made_up(examples: int, num_classes: int) -> DataSplits:
    """Random images and labels of CIFAR's shape: what a loop costs does not depend on what is to be seen.

    >>> made_up(8, 10).train.images.shape
    torch.Size([8, 3, 32, 32])
    """
    generator = make_generator(0, "epoch")
    images = torch.randint(256, (examples, 3, 32, 32), dtype=torch.uint8, generator=generator)
    train = ArrayDataset(images, torch.randint(num_classes, (examples,), generator=generator))
    return DataSplits(
        train=train,
        val=None,
        test=ArrayDataset(images[:1], train.labels[:1]),
        class_names=tuple(map(str, range(num_classes))),
        image_size=32,
        mean=MEAN,
        std=STD,
    )


def run(
    config: Config,
    splits: DataSplits,
    *,
    loops: Sequence[str] = ("ours", "network alone", *peers.LOOPS),
    chosen: Sequence[str] = ("erm", "input-mixup", "multimix"),
    steps: int = 20,
    rounds: int = 7,
    say: Callable[[str], None] = lambda message: None,
) -> Iterator[Row]:
    """Time every loop with every method that it has.

    Times are the clock's, since the others load images in processes of their own. These go on filling their queues
    while another loop has its turn, for at most two batches each; so the others are flattered a little, and ours
    suffers. Without such processes (`config.workers` of 0), times on one CPU thread are the processor's, so that other
    programs hardly count.

    Args:
        config: model, batch size, SGD, precision (32-true or bf16-mixed) and device, the same for all; `config.method`
            and `config.data` are not used. The others shift and mirror as "crop-flip" does.
        splits: images in memory, as `made_up` makes them.
        loops: of "ours", "network alone" (one batch, again and again) and `multimix.benchmarking.peers.LOOPS`.
        chosen: methods. A loop of others that has not got one is left out.
        steps: of a turn.
        rounds: every loop has one turn in each.
        say: called with what cannot be measured, and why.
    """
    fabric = connect(config)
    fabric.launch()
    with ExitStack() as stack:
        stack.enter_context(borrowed_global_state(deterministic=config.deterministic))
        for method in chosen:
            made: dict[str, Steps] = {}
            if config.compile:
                torch.compiler.reset()  # the graphs of another method's networks must not use up the cache
            for loop in loops:
                try:
                    if loop == "ours":
                        made[loop] = training_loop(fabric, replace(config, method=method), splits, stack)
                    elif loop == "network alone":
                        made[loop] = network_alone(fabric, replace(config, method=method), splits, stack)
                    elif method in peers.METHODS[loop]:
                        made[loop] = peers.LOOPS[loop](config, splits, fabric.device)
                except ImportError as error:
                    say(f"{loop}: {error}")
            for advance in made.values():
                advance(max(3, steps // 4))  # starts workers, compiles
            turns = {loop: functools.partial(advance, steps) for loop, advance in made.items()}
            alone = config.workers == 0
            seconds = interleaved(turns, rounds=rounds, device=str(fabric.device), warm=True, alone=alone)
            yield from _rows(method, seconds, config, len(splits.train), steps)


def _rows(method: str, seconds: dict[str, list[float]], config: Config, examples: int, steps: int) -> Iterator[Row]:
    for loop, times in seconds.items():
        rate = steps * config.batch_size / statistics.median(times)
        yield Row(
            loop,
            method,
            rate,
            60 * rate / (examples // config.batch_size * config.batch_size),
            ratio(times, seconds["ours"]) if loop != "ours" and "ours" in seconds else None,
        )
