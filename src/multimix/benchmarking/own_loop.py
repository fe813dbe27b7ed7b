"""Our training loop, as far as somebody wants it to go, and the network in it alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import methods
from ..data import Batch, DataSplits
from ..random import make_generator
from ..training import Config
from ..training.devices import Ranks
from ..training.interrupt import StopRequest
from ..training.loop import Loop
from ..training.meters import Meters
from ..training.optimizers import make_optimizer
from ..training.progress import Reporter
from ..training.records import TensorBoard
from ..training.rundir import RunDirectory
from ..training.setting import build_model, train_loader
from ..training.state import TrainingState
from ..training.step import TrainingStep, begin_pass, compiled_stages

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Steps = Callable[[int], None]
"""Does so many optimiser steps, going on where it stopped."""


def training_loop(fabric: Fabric, config: Config, splits: DataSplits, stack: ExitStack) -> Steps:
    """The loop of `multimix train`, epoch after epoch, without evaluation and checkpoints."""
    ranks = Ranks(fabric)
    step = _step(fabric, config, splits)
    optimizer = make_optimizer(step, config, device=fabric.device)
    module, wrapped = fabric.setup(step, optimizer)
    if config.compile:
        stack.enter_context(compiled_stages(step, config))
    loader = train_loader(config, splits, device=fabric.device, rank=ranks.rank, world_size=ranks.size)
    turns = _Turns(itertools.chain.from_iterable(loader.batches(epoch) for epoch in itertools.count()), len(loader))
    loop = Loop(
        config=config,
        run=RunDirectory(Path("not-written")),
        fabric=fabric,
        ranks=ranks,
        module=module,
        optimizer=wrapped,
        state=TrainingState(step, optimizer, None, fabric.strategy.precision, Meters(fabric.device)),
        loaders={"train": turns},  # type: ignore[dict-item]
        batch_images=config.batch_size,
        stop=StopRequest(),
        reporter=Reporter(None, epochs=config.epochs, batches=len(loader), done=0),
        board=TensorBoard(None, 1),
    )

    def advance(steps: int) -> None:
        turns.steps = steps
        loop.train_epoch()

    return advance


def network_alone(fabric: Fabric, config: Config, splits: DataSplits, stack: ExitStack) -> Steps:
    """Forward, loss, backward and optimiser on one batch: what a loop around it can at best come to."""
    step = _step(fabric, config, splits)
    optimizer = make_optimizer(step, config, device=fabric.device)
    if config.compile:
        stack.enter_context(compiled_stages(step, config))
    batch = next(train_loader(config, splits, device=fabric.device).batches(0))
    images = batch.images.contiguous(memory_format=torch.channels_last) if config.channels_last else batch.images
    generator = make_generator(config.seed, "speed")

    def advance(steps: int) -> None:
        for _ in range(steps):
            begin_pass(config)
            with fabric.autocast():
                loss, _ = step(images, batch.targets, generator)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return advance


class _Turns:
    """A loader whose epochs are turns of `steps` batches each, of an endless stream."""

    def __init__(self, stream: Iterable[Batch], batches: int) -> None:
        self._stream, self._batches, self.steps = iter(stream), batches, 1

    def __len__(self) -> int:
        return self._batches

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return itertools.islice(self._stream, self.steps)


def _step(fabric: Fabric, config: Config, splits: DataSplits) -> TrainingStep:
    model = build_model(config, splits).to(fabric.device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    method = methods.parse(config.method)
    method.setup(model)
    return TrainingStep(model, method).train()
