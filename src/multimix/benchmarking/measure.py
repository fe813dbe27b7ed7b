"""Time and peak memory of alternatives, measured in turns in one process."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: str,
    turn: float = 0.0,
    warm: bool = False,
    alone: bool = True,
    after_turn: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds per call of every variant in every round, after a warm-up call each.

    The variants take turns within a round, every second round backwards, so that whatever else the machine does hits
    all alike; compare medians, or ratios within a round. On one CPU thread the time is the processor's, not the
    clock's, so that other programs hardly count.

    Args:
        turn: a turn repeats the call for about so many seconds (at least once): a short call is measured as in a loop
            and not by what the variant before it left in the caches.
        warm: all have been called before.
        alone: as for `clock`.
        after_turn: called after every turn, outside of the time.
    """
    now = clock(device, alone=alone)
    calls = dict.fromkeys(variants, 1)
    for name, call in variants.items():
        once = 0.0 if warm else _timed(call, device, 1, now)
        # On a GPU the first call may have compiled a kernel, and says nothing of the next.
        if turn and (once < turn or torch.device(device).type == "cuda"):
            calls[name] = max(1, round(turn / _timed(call, device, 1, now)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for k in range(rounds):
        for name in list(variants)[:: -1 if k % 2 else 1]:
            seconds[name].append(_timed(variants[name], device, calls[name], now))
            after_turn()
    return seconds


def clock(device: str, *, alone: bool = True) -> Callable[[], float]:
    """What `interleaved` reads the time from.

    Args:
        alone: this process does all the work. The processor's time would leave out that of others, which load images.
    """
    one_thread = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone and one_thread else time.perf_counter


class Ratio(NamedTuple):
    """Of two times: the median over rounds of the ratio within a round, and an interval that covers the true median."""

    median: float
    low: float
    high: float

    def text(self, form: str) -> str:
        """As the tables show it, each number in the format `form`.

        >>> Ratio(2.0, 1.9, 2.125).text(".2f")
        '2.00 [1.90, 2.12]'
        """
        return f"{self.median:{form}} [{self.low:{form}}, {self.high:{form}}]"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """slow / fast within every round of `interleaved`.

    The interval is the narrowest of order statistics that holds the true median with probability 95 % whatever
    the distribution (the sign test's); under six rounds all of them, which is less sure: 1 - 2^(1 - rounds).

    >>> ratio([2.0, 20.0, 4.0], [1.0, 10.0, 1.0])
    Ratio(median=2.0, low=2.0, high=4.0)
    """
    ratios = sorted(s / f for s, f in zip(slow, fast, strict=True))
    rounds, k, chances = len(ratios), 0, 1
    # ratios[k] is above the true median where at most k are below that: by sum_i<=k C(rounds, i) of 2^rounds chances.
    while 2 * (chances + math.comb(rounds, k + 1)) <= 0.05 * 2**rounds:
        k += 1
        chances += math.comb(rounds, k)
    return Ratio(statistics.median(ratios), ratios[k], ratios[-1 - k])


def peak_memory(call: Callable[[], object], *, device: str) -> int:
    """Bytes that a call allocates at its peak beyond what was allocated before it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    # Its profiler would write every start and stop to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, record_shapes=False) as profile:
        call()
    held = peak = 0
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def synchronize(device: str) -> None:
    """Wait until `device` has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _timed(call: Callable[[], object], device: str, calls: int, now: Callable[[], float]) -> float:
    """Seconds per call."""
    synchronize(device)
    start = now()
    for _ in range(calls):
        call()
    synchronize(device)
    return (now() - start) / calls
