"""Explicit random generators: every draw in this package comes from one of these, never from the global RNG.

A training run derives one generator per (seed, step, rank, purpose), so that a resumed run needs to know only
its step. A call without a generator uses a private stream seeded from `torch.initial_seed()`: reproducible
after `torch.manual_seed`, different on every rank, and invisible to the global RNG.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = [
    "default_generator",
    "derive_seed",
    "draw_seed",
    "eager",
    "fork",
    "initialising",
    "lending",
    "make_generator",
    "uniform",
]

P = ParamSpec("P")
R = TypeVar("R")


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order.

    >>> derive_seed(0, 12, "augment") == derive_seed(0, 12, "augment")
    True
    >>> derive_seed(0, 12, "augment") == derive_seed(12, 0, "augment")
    False
    """
    # NumPy's integers and one-element tensors print differently, and must not give other seeds than the same int.
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in parts)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator on `device`, seeded with `derive_seed(*parts)`.

    >>> g = make_generator(0, 12, "mix")
    >>> torch.rand(1, generator=g).shape
    torch.Size([1])
    """
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """`torch.compiler.disable`, which imports the compiler, for seconds, only in programs that compile."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            disabled: Callable[P, R] = torch.compiler.disable(function)
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return call


_defaults: dict[torch.device, tuple[tuple[int, int], torch.Generator]] = {}


def default_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """The private stream used where no generator is given: one per device, restarted when
    `torch.manual_seed` is called with another seed or the process joins a group, and different on every rank of it.

    So it begins again too after a block of `torch.random.fork_rng` in which another seed was set and this stream used.
    """
    device = _with_index(torch.device(device))
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    parts = torch.initial_seed(), torch.distributed.get_rank() if distributed else 0
    if device not in _defaults or _defaults[device][0] != parts:
        _defaults[device] = parts, make_generator(*parts, "multimix", device=device)
    return _defaults[device][1]


def fork(generator: torch.Generator | None, device: torch.device | str) -> torch.Generator:
    """A generator whose device is `device`: the given one if it is there already, else a new one seeded from it.

    Drawing the seed from a CPU generator costs no device synchronisation, so a training loop hands out
    CPU generators and every method can take host decisions (which branch, which layer) without a stall.
    """
    device = _with_index(torch.device(device))
    if generator is None:
        return default_generator(device)
    check_generator(generator)
    if _with_index(generator.device) == device:
        return generator
    return torch.Generator(device).manual_seed(int(draw_seed(generator)))


def check_generator(generator: object) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {generator!r}: torch.Generator().manual_seed(0) makes one"
        )


@eager
def draw_seed(generator: torch.Generator | None) -> Tensor:
    """A seed for a generator elsewhere, as a CPU scalar tensor (int64), which a compiled region can take in."""
    if generator is None:
        generator = default_generator("cpu")
    check_generator(generator)
    return torch.randint(2**63 - 1, (), generator=generator, device=generator.device).cpu()


_one_borrower = threading.RLock()


def _renew_after_fork() -> None:
    global _one_borrower
    _one_borrower = threading.RLock()  # a forked process lacks the thread that may hold the one before


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


@contextmanager
def lending(seed: int) -> Iterator[None]:
    """The global CPU generator begins at `seed`, for code that draws from no other, and is put back afterwards; what
    is made is on the CPU, where no device is given.

    `torch.manual_seed` would also seed the accelerators, for good. Threads take turns.
    """
    with _one_borrower, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def initialising(generator: torch.Generator) -> Iterator[None]:
    """Layers made here are on the CPU and take their initial weights from `generator` (on the CPU).

    PyTorch draws initial weights from the global CPU generator, which is lent to it.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
    with lending(seed):
        yield


def uniform(generator: torch.Generator | None) -> float:
    """One draw from U[0, 1) as a Python number, for decisions taken on the host."""
    generator = generator if generator is not None else default_generator("cpu")
    draw: Tensor = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
    return draw.item()


def _with_index(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
