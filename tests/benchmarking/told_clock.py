"""A clock for `multimix.benchmarking.methods` that is told what a step costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from multimix.benchmarking import measure
from multimix.benchmarking import methods as timing
from multimix.data import Batch
from multimix.methods import Method
from multimix.models import SplitModel

Cost = Callable[[SplitModel, Method, Batch], float]


def tell(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> None:
    """Steps do nothing, and take the seconds that `cost` gives."""
    done: list[float] = []

    def step(fabric: Any, config: Any, model: SplitModel, method: Method, batch: Batch) -> Callable[[], None]:
        seconds = cost(model, method, batch)
        return lambda: done.append(seconds)

    def timed(variants: Mapping[str, Callable[[], object]], *, rounds: int, **_: object) -> dict[str, list[float]]:
        times = {}
        for name, call in variants.items():
            done.clear()
            call()
            times[name] = [sum(done)] * rounds
        return times

    monkeypatch.setattr(timing, "_step", step)
    monkeypatch.setattr(timing, "interleaved", timed)


def tell_all(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> list[float]:
    """The same, where turns and rounds are taken as they are; the seconds of all steps so far."""
    passed: list[float] = []

    def step(fabric: Any, config: Any, model: SplitModel, method: Method, batch: Batch) -> Callable[[], None]:
        seconds = cost(model, method, batch)
        return lambda: passed.append(seconds)

    monkeypatch.setattr(timing, "_step", step)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: sum(passed)))
    monkeypatch.setattr(measure, "clock", lambda device, *, alone: lambda: sum(passed))
    return passed
