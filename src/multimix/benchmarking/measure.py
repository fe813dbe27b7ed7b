"""Time and peak memory of alternatives, measured in turns in one process, and the machine they ran on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import torch


def hardware() -> dict[str, str]:
    """Processor, accelerator, threads and versions, as every recorded result states them."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the platform's own name stands
    found = {
        "cpu": name,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, device: str, turn: float = 0.0
) -> dict[str, list[float]]:
    """Seconds per call of every variant in every round, after two warm-up calls each.

    The variants take turns within a round, so that whatever else the machine does hits all alike; compare
    medians, or ratios within a round. A turn repeats the call for about `turn` seconds (at least once), so that a
    short call is measured as in a loop and not by what the variant before it left in the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    calls = {}
    for name, call in variants.items():
        _timed(call, device, 1)
        calls[name] = max(1, round(turn / _timed(call, device, 1)))
    for _ in range(rounds):
        for name, call in variants.items():
            seconds[name].append(_timed(call, device, calls[name]))
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of slow / fast."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def peak_memory(call: Callable[[], object], *, device: str) -> int:
    """Bytes that a call allocates at its peak beyond what was allocated before it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
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


def _timed(call: Callable[[], object], device: str, calls: int) -> float:
    """Seconds per call."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls
