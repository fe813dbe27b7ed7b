"""The training speed of the methods of a comparison, measured in turns with ERM in one process.

The runs of a comparison share the machine, so their own images per second say more about each other than about
the methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from ..benchmarking.methods import beside_erm, one_pass
from ..models import SplitModel
from ..training import Config
from ..training.devices import connect
from ..training.setting import build_model, load_splits, train_loader
from .plan import Speed
from .runs import BASELINE

ROUNDS = 9
SECONDS = 8.0
"""About how long to measure in all; slow models take as long as a few steps take."""


def measure_speed(
    config: Config, chosen: Sequence[str], *, device: Literal["cpu", "cuda"]
) -> tuple[dict[str, Speed], str]:
    """Time whole training steps (forward, loss, backward, optimiser) on one real batch, without data loading.

    Args:
        config: what the methods have in common. Of batches that are accumulated, or divided over devices, what passes
            through the network at a time is timed.
        chosen: the methods. One that cannot be timed is left out with a warning.
        device: "cpu" or "cuda".

    Returns:
        The speed of each, and a sentence that says how it was measured.
    """
    at_a_time = replace(one_pass(config), accelerator=device)
    fabric = connect(at_a_time)
    fabric.launch()
    splits = load_splits(at_a_time)
    batch = next(iter(train_loader(replace(at_a_time, workers=0), splits, device=fabric.device).batches(0)))

    def make_model() -> SplitModel:
        return build_model(at_a_time, splits).to(fabric.device)

    speeds = {}
    seconds = SECONDS / len(chosen)
    for row in beside_erm(chosen, fabric, at_a_time, make_model, batch, rounds=ROUNDS, seconds=seconds):
        if row.images_per_second is None or row.relative is None:
            warnings.warn(f"the training speed of {row.method} is not measured: {row.why_not}", stacklevel=2)
        else:
            speeds[row.method] = Speed(row.images_per_second, row.relative)
    if erm := speeds.get(BASELINE):
        speeds = {method: replace(speed, images_per_second=erm.images_per_second * speed.relative)
                  for method, speed in speeds.items()}  # fmt: skip
    threads = torch.get_num_threads()
    what = "batch" if at_a_time.batch_size == config.batch_size else "micro-batch"
    where = "one GPU" if device == "cuda" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
    how = (
        f"Speed is of whole training steps on one real {what} without data loading, in one process on {where} after "
        f"the runs, each method in turns with ERM: medians of up to {ROUNDS} rounds; for methods that choose at random "
        "for each mini-batch, the expected time. The ratio is of steps side by side; images per second are ERM's "
        "times the ratio, since on a busy machine those of different moments do not compare."
    )
    return speeds, how
