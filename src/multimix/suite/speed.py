"""The speed of training steps, each method in turns with ERM in one process (Table 3 of the paper)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .. import data, methods
from ..benchmarking.methods import beside_erm, one_pass
from ..machine import this_machine
from ..methods import canonical, spelled, split_list
from ..models import SplitModel
from ..reports.section import Section
from ..training import Config
from ..training.devices import connect
from . import speed_page
from .part import Legend, Part, Results, Subject
from .store import Store

VARIED = ("multimix", "dense-multimix", "multimix-alone", "dense-multimix-alone")
"""Methods whose number of mixed examples costs no further passes through the network."""
ELSEWHERE = ("erm", "input-mixup", "manifold-mixup", "cutmix", "multimix", "dense-multimix")
"""What is timed on a network that was trained by no method of ours, unless others are asked for."""


@dataclass(frozen=True, kw_only=True)
class Speed(Part):
    """Training speed: images per second through forward, loss, backward and optimiser, relative to ERM (no mixing)."""

    name: ClassVar[str] = "speed"

    methods: tuple[str, ...] = ()
    """Further methods to time on every network; default: none for a run, a few common ones for a library model."""
    n: tuple[int, ...] = (1, 10, 100, 1000, 10000)
    """Numbers n of mixed examples with which runs of MultiMix and Dense MultiMix are timed, for the curve over n."""
    rounds: int = 9
    """Number of rounds in which a method and ERM take turns; the median over the rounds counts."""
    seconds: float = 4.0
    """About how many seconds to time each method beside ERM; slow networks take 3 rounds, however long."""

    def __post_init__(self) -> None:
        for text in self.methods:
            methods.parse(text)
        if min((*self.n, self.rounds)) < 1 or not self.seconds > 0:
            raise ValueError(
                "n and rounds must be at least 1 and seconds positive, "
                f"got n={self.n}, rounds={self.rounds}, seconds={self.seconds}"
            )

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """By method, its own first, a `benchmarking.methods.Row`; for its own also (n, speed over ERM's).

        What is timed is a copy of the network on one batch of training images (test images where those are not at
        hand), with the optimiser and the precision of the training.
        """
        device: Any = subject.device.type
        config = replace(one_pass(_config(subject)), accelerator=device)
        own = None if subject.method is None else spelled(subject.method)
        chosen = list(
            dict.fromkeys([*([own] if own else []), *map(spelled, self.methods or (() if own else ELSEWHERE))])
        )
        by_n = {n: with_n(own, n) for n in self.n} if own else {}
        time = _stopwatch(subject, config, rounds=self.rounds, seconds=self.seconds)

        def measure(method: str) -> dict[str, Any]:
            say(f"timing {method}")
            return store.compute(method, lambda: time(method))

        rows = {method: measure(method) for method in chosen}
        curve = [[n, measure(method)["relative"]] for n, method in by_n.items() if method is not None]
        return {
            "own": own,
            "rows": rows,
            "by_n": [point for point in curve if point[1] is not None],
            "batch": min(config.batch_size, len(_images(subject))),
            "image_size": subject.image_size,
            "precision": config.precision,
            "network": config.model,
            "machine": store.compute("machine", this_machine),
            "device": device,
        }

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        row = result["rows"].get(result["own"])
        if row is None or row["relative"] is None:
            return {}
        # Images per second of models that were timed one after the other do not compare; these do.
        return {"training speed ÷ ERM's ↑": row["relative"]}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return speed_page.sections(results, legend.colors)


def with_n(method: str, n: int) -> str | None:
    """The method with another number of mixed examples; None where n is not the only thing that would change.

    >>> with_n("multimix(n=500, alpha=0.1)", 10), with_n("cutmix", 10), with_n("multimix(layer=2)", 10)
    ('multimix(alpha=0.1, n=10)', None, None)
    >>> with_n("multimix(500, None, 0.1)", 10)
    'multimix(alpha=0.1, n=10)'
    """
    name, _, inside = method.removesuffix(")").partition("(")
    if not all("=" in option for option in split_list(inside)):
        name, _, inside = canonical(method).removesuffix(")").partition("(")
    options = [option for option in split_list(inside) if option.split("=")[0].strip() != "n"]
    if name not in VARIED or any(option.split("=")[0].strip() == "layer" for option in options):
        return None
    return spelled(f"{name}({', '.join([*options, f'n={n}'])})")


def _config(subject: Subject) -> Config:
    if subject.config is not None:
        return subject.config
    return Config(data="imagefolder", model=subject.label, batch_size=subject.batch_size)


def _images(subject: Subject) -> data.Dataset:
    return subject.test if subject.train is None else subject.train


def _stopwatch(subject: Subject, config: Config, *, rounds: int, seconds: float) -> Callable[[str], dict[str, Any]]:
    """What times a method on copies of the subject's network; images are read when it is first used."""
    fabric = connect(config)
    fabric.launch()
    batches: list[data.Batch] = []

    def make_model() -> SplitModel:
        return copy.deepcopy(subject.model).train().requires_grad_(True).to(fabric.device)

    def time(method: str) -> dict[str, Any]:
        if not batches:
            loader = data.loader(
                _images(subject),
                batch_size=config.batch_size,
                train=True,
                augment=config.augment,
                image_size=subject.image_size,
                seed=config.seed,
                device=fabric.device,
                workers=0,
                balance_domains=config.balance_domains and subject.train is not None,
            )
            batches.append(next(iter(loader.batches(0))))
        (row,) = beside_erm([method], fabric, config, make_model, batches[0], rounds=rounds, seconds=seconds)
        return dataclasses.asdict(row)

    return time
