"""Measuring in turns: who is called when, what a ratio is worth, and that memory is really counted."""

import itertools
import random
from collections.abc import Callable

import pytest
import torch

from multimix.benchmarking import measure
from multimix.benchmarking.measure import interleaved, peak_memory, ratio


def test_variants_take_turns_every_second_round_backwards() -> None:
    order: list[str] = []
    variants = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = interleaved(variants, rounds=3, device="cpu")
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
    order.clear()
    interleaved(variants, rounds=1, device="cpu", warm=True, after_turn=lambda: order.append("."))
    assert "".join(order) == "a.b."


def told(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> tuple[Callable[[], None], list[float]]:
    """A call that takes `seconds(k)` the k-th time, by the clock that `interleaved` reads, and what it has taken."""
    taken: list[float] = []
    monkeypatch.setattr(measure, "clock", lambda device, *, alone: lambda: sum(taken))
    monkeypatch.setattr(measure, "synchronize", lambda device: None)
    return lambda: taken.append(seconds(len(taken) + 1)), taken


def test_short_calls_are_repeated_to_fill_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    call, taken = told(monkeypatch, lambda k: 0.001)
    assert interleaved({"a": call}, rounds=2, device="cpu", turn=0.01)["a"] == pytest.approx([0.001, 0.001])
    # One to warm up, one to see how long it takes, ten for each turn.
    assert len(taken) == 2 + 2 * 10


def test_a_first_call_that_compiles_does_not_count_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    call, taken = told(monkeypatch, lambda k: 5.0 if k == 1 else 0.001)
    assert interleaved({"a": call}, rounds=2, device="cuda", turn=0.01)["a"] == pytest.approx([0.001, 0.001])
    assert len(taken) == 2 + 2 * 10


def test_ratio_is_taken_within_rounds() -> None:
    assert ratio([2.0, 20.0, 4.0], [1.0, 10.0, 1.0]).median == 2.0


@pytest.mark.parametrize("rounds", [6, 9, 14])
def test_interval_covers_the_median_and_a_narrower_one_would_not(rounds: int) -> None:
    # Every round is above or below the true median, 0, like a coin: all outcomes, or many random ones.
    chance = random.Random(0)
    covered = narrower = trials = 0
    for signs in itertools.product((-1, 1), repeat=rounds):
        if rounds > 9 and chance.random() > 0.5:
            continue
        values = sorted(sign * chance.random() for sign in signs)
        low, high = ratio(values, [1.0] * rounds)[1:]
        k = values.index(low)
        assert high == values[-1 - k]
        trials += 1
        covered += low <= 0 <= high
        narrower += values[k + 1] <= 0 <= values[-2 - k]
    assert covered / trials >= 0.95
    assert narrower / trials < 0.95


def test_few_rounds_give_the_extremes() -> None:
    assert ratio([3.0, 1.0, 2.0, 8.0], [1.0] * 4) == (2.5, 1.0, 8.0)


def test_peak_memory_counts_what_is_allocated_at_once() -> None:
    def call() -> None:
        for _ in range(3):  # one megabyte at a time, four bytes each
            torch.empty(2**18).fill_(1)

    assert 2**20 <= peak_memory(call, device="cpu") < 1.2 * 2**20
