"""Whole training steps of MultiMix and Dense MultiMix beside ERM's, and how near they could come to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..training import Config
from . import floor, methods
from .measure import Ratio


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network and what it is trained on."""

    model: str
    image_size: int
    classes: int
    b: int
    d: int
    positions: int
    """Channels and positions of the last features, which Dense MultiMix mixes."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = False


CPU = (Setting(model="preactresnet18", image_size=32, classes=100, b=16, d=512, positions=16),)
"""A few images a step, for the sake of time; what the loss costs beside the network hardly depends on how many."""
CUDA = tuple(
    Setting(
        model=model,
        image_size=224,
        classes=1000,
        b=128,
        d=d,
        positions=positions,
        precision="bf16-mixed",
        channels_last=model == "resnet50",
    )
    for model, d, positions in (("resnet50", 2048, 49), ("vit-s16", 384, 196))
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    setting: Setting
    method: str
    milliseconds: float | None
    over_erm: Ratio | None
    """Time over ERM's; for ERM, of a second copy: the noise."""
    least: float | None
    """The ratio if the loss took no longer than its floor on top of ERM's step; None where the rates are not known."""
    mib: float | None
    """Memory that a step allocates beyond weights and images."""
    why_not: str = ""
    """Why it could not be measured."""


def run(
    settings: Sequence[Setting],
    *,
    n: Sequence[int | float],
    device: Literal["cpu", "cuda"],
    rounds: int = 15,
    seconds: float = 3.0,
    rates: floor.Rates | None = None,
) -> Iterator[Row]:
    """ERM, then both methods at every n (`math.inf` for the closed form), each in turns with ERM.

    Args:
        rounds, seconds: as in `methods.run`.
        rates: of the device in the precision of `settings`.
    """
    variants = {"erm": (0, 0.0)} | {
        f"{name}(n={'inf' if count == math.inf else count})": (dense, count)
        for count in n
        for dense, name in enumerate(("multimix-alone", "dense-multimix-alone"))
    }
    for setting in settings:
        config = replace(
            Config(data="digits"),  # a configuration names data; the images are made up
            model=setting.model,
            batch_size=setting.b,
            precision=setting.precision,
            channels_last=setting.channels_last,
            accelerator=device,
        )
        shape = {"num_classes": setting.classes, "image_size": setting.image_size}
        erm = math.nan
        for row in methods.run(list(variants), config, **shape, rounds=rounds, seconds=seconds):
            if row.speed is None or row.milliseconds is None:
                yield Row(setting, row.method, None, None, None, None, row.why_not)
                continue
            erm = row.milliseconds if row.method == "erm" else erm
            added = rates and floor.seconds(least_work(setting, *variants[row.method]), rates)
            yield Row(
                setting,
                row.method,
                row.milliseconds,
                Ratio(1 / row.speed.median, 1 / row.speed.high, 1 / row.speed.low),
                None if added is None or row.method == "erm" else 1 + 1e3 * added / erm,
                row.peak_mib,
            )


def least_work(setting: Setting, dense: bool | int, n: int | float) -> floor.Work:
    """What the loss adds to ERM's step: itself, and for Dense MultiMix the classifier at all positions but one.

    Of the closed form (n = inf) only the bytes of logits and gradient are counted.
    """
    itemsize = 4 if setting.precision == "32-true" else 2
    positions = setting.positions if dense else 1
    drawn = 0 if n == math.inf else int(n)
    loss = floor.sampled_loss(positions=positions, n=drawn, b=setting.b, c=setting.classes, itemsize=itemsize)
    if not dense:
        return loss
    rows = (positions - 1) * setting.b
    return floor.together(loss, floor.linear(rows=rows, d=setting.d, c=setting.classes, itemsize=itemsize))
