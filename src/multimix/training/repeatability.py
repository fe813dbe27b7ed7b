"""The global state that a run borrows, and gives back as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["borrowed_global_state", "refuse_late_determinism", "seed_global_state"]

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def refuse_late_determinism() -> None:
    """Raise ValueError where cuBLAS may have been used already: it asks only once whether to be deterministic."""
    if _CUBLAS not in os.environ and torch.cuda.is_initialized():
        raise ValueError(
            f"deterministic=True comes too late in a process that has used the GPU before: set {_CUBLAS}=:4096:8 in "
            "the environment, or train in a new process"
        )


@contextmanager
def borrowed_global_state(*, deterministic: bool) -> Iterator[None]:
    """Restore PyTorch's global RNG and kernel choices at the end.

    Dropout knows only the global RNG. The loop seeds it for every step from (seed, step, rank), which costs a few
    microseconds, where saving and restoring it around every step would stall a GPU.
    """
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        if deterministic:
            # cuBLAS reads this when it is first used.
            os.environ.setdefault(_CUBLAS, ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not deterministic
        yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_global_state(seed: int, device: torch.device) -> None:
    """Seed the global generators that a network on `device` draws from: the CPU's, and that device's own.

    torch.manual_seed also seeds all other devices, and as long as CUDA is not initialised it writes down the call
    stack, for a millisecond each time.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        if torch.cuda.is_initialized() and device.index is not None:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        else:
            torch.cuda.manual_seed(seed)  # of the current device
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
