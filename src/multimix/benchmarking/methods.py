"""The speed of a training step of every method, side by side in one process (Table 3 of the paper)."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .. import methods, models
from ..data import Batch
from ..errors import first_line
from ..methods import Method
from ..models import SplitModel
from ..random import make_generator
from ..training import Config, TrainingStep
from ..training.devices import connect
from ..training.optimizers import make_optimizer
from ..training.repeatability import borrowed_global_state
from .measure import Ratio, interleaved, peak_memory, ratio, synchronize

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SECONDS = 6.0
"""About how long to measure a method and ERM beside it; slow models take as long as `rounds` steps take."""

Steps = Sequence[tuple[float, Callable[[], None]]]
"""The steps among which a method chooses for every mini-batch, with their probabilities."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    images_per_second: float | None
    """Of whole steps: forward, loss, backward, optimiser. None where it could not be measured."""
    relative: float | None
    """Over ERM's, within a round; the median over rounds."""
    milliseconds: float | None
    """Expected time of a step."""
    peak_mib: float | None
    """Memory that a step allocates beyond weights and images; of the largest step that a method chooses from."""
    why_not: str = ""
    """Why it could not be measured."""
    relative_low: float | None = None
    relative_high: float | None = None
    """Between which the true median of the ratio lies (`measure.ratio`); for ERM, of a second copy: the noise."""
    rounds: int | None = None
    """In how many ERM and the method took turns."""

    @property
    def speed(self) -> Ratio | None:
        """`relative` with its interval."""
        if self.relative is None or self.relative_low is None or self.relative_high is None:
            return None
        return Ratio(self.relative, self.relative_low, self.relative_high)


def run(
    chosen: Sequence[str],
    config: Config,
    *,
    num_classes: int,
    image_size: int,
    rounds: int = 9,
    seconds: float = SECONDS,
) -> Iterator[Row]:
    """Time each method on made-up images, each in turn with ERM in the same process.

    Args:
        chosen: methods, as `multimix.methods.parse` reads them.
        config: model, batch size, precision, optimiser and device; its data are not used.
        num_classes, image_size: of the made-up images (b, 3, image_size, image_size).
        rounds: of one step of each, or of several short ones.
        seconds: about how long to measure a method and ERM beside it.

    Raises:
        ValueError: an unknown method or model. A method that cannot run on this model, or lacks a file or a library, is
            a row that says why.
    """
    fabric = connect(config)
    fabric.launch()

    def make_model() -> SplitModel:
        return models.build(
            config.model,
            num_classes=num_classes,
            image_size=image_size,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            generator=make_generator(config.seed, "init"),
        ).to(fabric.device)

    batch = made_up_batch(config.batch_size, num_classes, image_size, fabric.device)
    return beside_erm(chosen, fabric, config, make_model, batch, rounds=rounds, seconds=seconds)


def beside_erm(
    chosen: Sequence[str],
    fabric: Fabric,
    config: Config,
    make_model: Callable[[], SplitModel],
    batch: Batch,
    *,
    rounds: int,
    seconds: float,
    patience: float = math.inf,
    memory: bool = True,
    tell: Callable[[str, float | None], object] = lambda method, left: None,
) -> Iterator[Row]:
    """Time each method on one batch, each in turn with ERM; as `run`, for any network and images.

    Args:
        fabric: launched.
        config: its optimiser and memory format.
        make_model: makes a network of its own for each method, on the device of `fabric`.
        batch: images, labels and whatever further tensors the methods need.
        seconds: about how long to measure a method and ERM beside it.
        patience: as for `expected_times`.
        memory: measure it too, which takes further steps.
        tell: called with the method that is being timed and how many seconds that will go on; None while it is not
            known.
    """

    def steps_of(method: str) -> Steps:
        return steps(fabric, config, make_model(), methods.parse(method), batch)

    b, device = len(batch.images), fabric.device.type
    # As in training, where cuDNN looks for the fastest kernels.
    with borrowed_global_state(deterministic=config.deterministic):
        baseline = steps_of("erm")
        for method in chosen:
            methods.parse(method)
            tell(method, None)
            try:
                measured = {"": baseline, method: steps_of(method)}
                times = expected_times(
                    measured,
                    rounds=rounds,
                    device=device,
                    seconds=seconds,
                    patience=patience,
                    tell=functools.partial(tell, method),
                )
                peak = None
                if memory:
                    peak = max(peak_memory(step, device=device) for _, step in measured[method]) / 2**20
            except Exception as error:  # no weights or package, too little memory, a kernel that the device cannot take
                yield Row(method, None, None, None, None, first_line(error))
                continue
            step = statistics.median(times[method])
            relative = ratio(times[""], times[method])
            yield Row(
                method,
                b / step,
                1.0 if method == "erm" else relative.median,
                1e3 * step,
                peak,
                relative_low=relative.low,
                relative_high=relative.high,
                rounds=len(times[method]),
            )


def made_up_batch(b: int, num_classes: int, image_size: int, device: torch.device) -> Batch:
    """Smooth random images: what some methods cost depends on the image, and white noise has no regions to find."""
    generator = make_generator(0, "bench")
    coarse = torch.rand(b, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(image_size, image_size), mode="bicubic").clamp(0, 1)
    labels = torch.randint(num_classes, (b,), generator=generator)
    domain = torch.arange(b) % 3
    return Batch(images.to(device), labels.to(device), {"domain": domain.to(device)})


def expected_times(
    measured: Mapping[str, Steps],
    *,
    rounds: int,
    device: str,
    seconds: float,
    patience: float = math.inf,
    tell: Callable[[float], object] = lambda left: None,
) -> dict[str, list[float]]:
    """Seconds per step of every method in every round.

    A method that chooses at random for every mini-batch counts with its expected time: its parts are timed apart and
    weighted with their probabilities, where timing the mixture would need very many steps.

    Args:
        rounds: at most; at least 3, where more would take several times `seconds`.
        seconds: about how long to measure in all; short steps are repeated within a round to fill it.
        patience: where 3 rounds would take more seconds than this, those that fit into it, and at least one.
        tell: called after every turn with about how many seconds there are left.
    """
    parts = {(name, k): step for name, found in measured.items() for k, (_, step) in enumerate(found)}
    once = 0.0
    for _ in range(2):
        synchronize(device)
        began = time.perf_counter()
        for step in parts.values():
            step()
        synchronize(device)
        once = time.perf_counter() - began
        # On a CPU the first call is no more than a few per cent slower than others; on a GPU it compiles and searches.
        if once > seconds / 4 and torch.device(device).type == "cpu":
            break
    least = max(1, int(min(3.0, patience / once)))
    rounds = min(rounds, max(least, int(4 * seconds / once)))
    block = min(25, max(1, int(seconds / rounds / once)))
    turns = rounds * len(parts)
    left = iter(range(turns - 1, -1, -1))

    def say() -> None:
        tell(rounds * block * once * next(left) / turns)

    tell(rounds * block * once)
    times = interleaved(
        {str(key): functools.partial(_repeat, step, block) for key, step in parts.items()},
        rounds=rounds,
        device=device,
        warm=True,
        after_turn=say,
    )
    return {
        name: [
            math.fsum(weight * times[str((name, k))][r] / block for k, (weight, _) in enumerate(found))
            for r in range(rounds)
        ]
        for name, found in measured.items()
    }


def one_pass(config: Config) -> Config:
    """The configuration of what one device takes at a time: a micro-batch, as large as its memory is known to hold.

    Not compiled, since the steps here are not; a CPU could not be connected for the CUDA graphs of a run on a GPU.

    >>> one_pass(Config(data="digits", model="smallnet", method="erm", batch_size=64, accumulate=8)).batch_size
    8
    """
    at_a_time = config.batch_size // (config.accumulate * config.devices * config.nodes)
    batch_size = max(1, at_a_time)
    return replace(config, batch_size=batch_size, accumulate=1, devices=1, nodes=1, compile=False, cuda_graphs=False)


def steps(fabric: Fabric, config: Config, model: SplitModel, method: Method, batch: Batch) -> Steps:
    """The optimiser steps among which `method` chooses, on one model and one batch."""
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
        batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
    method.setup(model)
    return [(weight, _step(fabric, config, model, part, batch)) for weight, part in method.choices()]


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _step(fabric: Fabric, config: Config, model: SplitModel, method: Method, batch: Batch) -> Callable[[], None]:
    extras = method.wanted(batch.extras)
    step = TrainingStep(model, method)
    module, optimizer = fabric.setup(step, make_optimizer(step, config, device=fabric.device))
    generator = make_generator(config.seed, "speed")
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
