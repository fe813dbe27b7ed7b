"""The training speed of the methods of a comparison, measured in turns with ERM in one process.

The runs of a comparison share the machine, so their own images per second say more about each other than about
the methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from ..benchmarking.methods import beside_erm, one_pass
from ..machine import this_machine
from ..models import SplitModel
from ..training import Config
from ..training.devices import connect
from ..training.setting import build_model, load_splits, train_loader
from .plan import Speed
from .runs import BASELINE

ROUNDS = 9
SECONDS = 8.0
"""About how long to measure in all; slow models take as long as a few steps take."""
PATIENCE = 120.0
"""Where three rounds of every method would take more seconds than this in all, there are fewer, and one at least."""


def measure_speed(
    config: Config,
    chosen: Sequence[str],
    *,
    device: Literal["cpu", "cuda"],
    tell: Callable[[str, float | None], object] = lambda method, left: None,
) -> Iterator[tuple[str, Speed]]:
    """Time whole training steps (forward, loss, backward, optimiser) on one real batch, without data loading.

    Args:
        config: what the methods have in common. Of batches that are accumulated, or divided over devices, what passes
            through the network at a time is timed.
        chosen: the methods. One that cannot be timed is left out with a warning.
        device: "cpu" or "cuda".
        tell: called with the method that is being timed and how many seconds that will go on; None while it is not
            known.

    Yields:
        The speed of each, as soon as it is known; `side_by_side` makes their images per second comparable.
    """
    at_a_time = replace(one_pass(config), accelerator=device)
    fabric = connect(at_a_time)
    fabric.launch()
    splits = load_splits(at_a_time)
    batch = next(iter(train_loader(replace(at_a_time, workers=0), splits, device=fabric.device).batches(0)))

    def make_model() -> SplitModel:
        return build_model(at_a_time, splits).to(fabric.device)

    for row in beside_erm(
        chosen,
        fabric,
        at_a_time,
        make_model,
        batch,
        rounds=ROUNDS,
        seconds=SECONDS / len(chosen),
        patience=PATIENCE / len(chosen),
        memory=False,
        tell=tell,
    ):
        if row.images_per_second is None or row.relative is None:
            warnings.warn(f"the training speed of {row.method} is not measured: {row.why_not}", stacklevel=2)
        else:
            yield row.method, Speed(row.images_per_second, row.relative, row.rounds)


def side_by_side(speeds: Mapping[str, Speed]) -> dict[str, Speed]:
    """Images per second that agree with the ratios: those of ERM times the ratio, where ERM is among them."""
    if (erm := speeds.get(BASELINE)) is None:
        return dict(speeds)
    return {
        method: replace(speed, images_per_second=erm.images_per_second * speed.relative)
        for method, speed in speeds.items()
    }


def speed_setting(config: Config, device: Literal["cpu", "cuda"]) -> dict[str, str]:
    """What must be the same for speeds that were measured at different times to stand in one column: each is a ratio
    of steps side by side with ERM's, which depends on the machine and on how steps are taken, not on the moment."""
    found = this_machine()
    del found["date"]
    at_a_time = one_pass(config)
    taken = {name: str(getattr(at_a_time, name)) for name in ("batch_size", "channels_last", "deterministic")}
    return {**found, "device": device, **taken}


def how_measured(config: Config, speeds: Mapping[str, Speed], device: Literal["cpu", "cuda"]) -> str:
    """A sentence for the page. To be asked with as many threads as the speeds were measured with."""
    threads = torch.get_num_threads()
    what = "batch" if one_pass(config).batch_size == config.batch_size else "micro-batch"
    where = "one GPU" if device == "cuda" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
    return (
        f"Speed is of whole training steps on one real {what} without data loading, in one process on {where} after "
        f"the runs, each method in turns with ERM: {_rounds(speeds)}; for methods that choose at random "
        "for each mini-batch, the expected time. The ratio is of steps side by side; images per second are ERM's "
        "times the ratio, since on a busy machine those of different moments do not compare."
    )


def _rounds(speeds: Mapping[str, Speed]) -> str:
    counts = sorted({speed.rounds for speed in speeds.values() if speed.rounds is not None})
    if not counts:
        return f"medians of up to {ROUNDS} rounds"
    few = "" if counts[0] >= 3 else ", so few because steps are slow, which leaves the ratios uncertain"
    if counts[-1] == 1:
        return f"one round{few}"
    return f"medians of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} rounds{few}"
