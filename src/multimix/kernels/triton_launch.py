"""When the Triton kernels can run, and with which sizes of blocks; needs no Triton itself.

The sizes are chosen by what fits: registers and shared memory as the compiler reports them for compute capabilities 8.0
and 9.0, sums that the programs keep apart, and full use of the device. They have not been measured on a GPU yet.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
from importlib.util import find_spec
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from ..functional._transforms import asked_once

MOST_EXAMPLES = 256
"""Largest mini-batch: a block holds whole rows of weights."""

MOST_EXAMPLES_CLOSED_FORM = 1024
"""Likewise: a tile holds all examples."""

WIDEST_TILE = 64
"""Of classes."""

_INSTALLED = find_spec("triton") is not None  # looked up here, since some versions of the compiler do not trace it
_SHARED_MEMORY_CLOSED_FORM = 16 * 2**10  # 8 KiB, as the compiler reports it
_SHARED_MEMORY = 96 * 2**10  # what the largest blocks take, as the compiler reports it: 81 KiB
_ELEMENTS_PER_THREAD = 8  # of weights drawn at once: with more, the compiler runs out of registers
_MOST_SPLITS = 2**16 - 1  # programs along the second axis of a grid
_PARTIAL_SUMS = 2**26  # bytes of gradients kept apart, unless one copy for each position is more


class Launch(NamedTuple):
    """Sizes of blocks: mixtures BN, of them drawn at once `rows`, examples BB, classes BC; warps of a program, stages
    of its software pipeline, and `splits` programs for each position."""

    BN: int
    BB: int
    BC: int
    rows: int
    warps: int
    stages: int
    splits: int


@functools.lru_cache(maxsize=256)  # the search below takes as long as a launch, or longer
def choose(
    *, positions: int, n: int, b: int, c: int, precision: str, processors: int, capability: tuple[int, int] = (9, 0)
) -> Launch:
    """Sizes for a device with so many streaming multiprocessors.

    >>> choose(positions=49, n=1000, b=128, c=1000, precision="bf16", processors=132)
    Launch(BN=128, BB=128, BC=64, rows=16, warps=8, stages=3, splits=2)
    """
    # Large blocks move the gradient less often. These are the largest that registers hold; tensor cores before
    # Hopper's, and products of float32 numbers, need more of them.
    wide = precision == "bf16" and capability >= (9, 0)
    largest = 128 if wide else 64 if precision == "bf16" else 16 if precision == "tf32x3" else 32
    BB = max(16, _power_of_two(b))
    BC = min(max(16, _power_of_two(c)), 64 if wide and BB <= 128 else 32)
    BN = max(16, min(largest if BB <= 128 else largest // 4, _power_of_two(n)))
    while BN > 16 and positions * math.ceil(n / BN) < processors:
        BN //= 2
    warps = 8 if BN * BB >= 2048 else 4
    rows = min(BN, max(1, _ELEMENTS_PER_THREAD * 32 * warps // BB))
    blocks = math.ceil(n / BN)
    resident = processors * (8 // warps)
    most = max(1, min(blocks, _MOST_SPLITS, max(_PARTIAL_SUMS // (4 * positions * BB * math.ceil(c / BC) * BC), 2)))
    # Rounds of programs times blocks of each: the time, if all blocks take equally long.
    splits = min(range(1, most + 1), key=lambda S: (math.ceil(positions * S / resident) * math.ceil(blocks / S), S))
    return Launch(BN, BB, BC, rows, warps, 3 if precision == "bf16" else 2, splits)


class Tile(NamedTuple):
    """Of the closed form: examples BB, all of the mini-batch, and classes BC that a program holds; its warps."""

    BB: int
    BC: int
    warps: int


def tile(*, b: int, c: int, backward: bool) -> Tile:
    """For the kernels of the forward or the backward pass, the same on any device.

    >>> tile(b=128, c=1000, backward=False), tile(b=128, c=1000, backward=True)
    (Tile(BB=128, BC=64, warps=8), Tile(BB=128, BC=32, warps=8))
    """
    # With as many registers as two programs of a multiprocessor have: the backward pass needs more for a logit.
    per_thread = 16 if backward else 32
    BB = max(16, _power_of_two(b))
    BC = min(max(16, _power_of_two(c)), max(16, 256 * per_thread // BB), WIDEST_TILE)
    return Tile(BB, BC, min(16, max(1, BB * BC // (32 * per_thread))))


def width(c: int) -> int:
    """Of rows of classes that hold whole tiles, whatever their size."""
    return (c + WIDEST_TILE - 1) // WIDEST_TILE * WIDEST_TILE


def why_not(
    logits_PBC: Tensor, *, most_examples: int = MOST_EXAMPLES, shared_memory: int = _SHARED_MEMORY
) -> str | None:
    """Why a kernel, the sampled loss's by default, cannot take these logits, or None if it can."""
    if logits_PBC.dtype == torch.float64:
        return "float64 logits: the kernel computes in float32"
    if logits_PBC.shape[1] > most_examples:
        return f"a mini-batch of {logits_PBC.shape[1]}: the kernel takes at most {most_examples} examples"
    if not _INSTALLED:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return _why_not_on(logits_PBC.device, shared_memory)


@asked_once
def _why_not_on(device: torch.device, shared_memory: int) -> str | None:
    if device.type != "cuda" or torch.version.cuda is None:
        return f"logits on {device}: the kernel needs an NVIDIA GPU (or TRITON_INTERPRET=1, to test on the CPU)"
    if not _has_compiler():
        return "a system without a C compiler, which Triton needs to launch kernels"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"compute capability {major}.{minor}: the kernel needs 8.0 or higher"
    found: Any = torch.cuda.get_device_properties(device)  # of a type that not all versions describe whole
    shared = found.shared_memory_per_block_optin
    if shared < shared_memory:
        return f"{shared // 1024} KiB of shared memory: the kernel needs {shared_memory // 1024}"
    return None


@functools.lru_cache(maxsize=1)
def _has_compiler() -> bool:
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


def why_not_closed_form(logits_PBC: Tensor) -> str | None:
    """Why the kernels of the closed form cannot take these logits, or None if they can."""
    return why_not(logits_PBC, most_examples=MOST_EXAMPLES_CLOSED_FORM, shared_memory=_SHARED_MEMORY_CLOSED_FORM)


def precision(dtype: torch.dtype) -> str:
    """How the kernel multiplies: in the logits' own precision if they are bfloat16, else as
    `torch.set_float32_matmul_precision` asks for float32. Sums are float32 in any case."""
    if dtype == torch.bfloat16:
        return "bf16"
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "tf32x3" if exact else "tf32"


class Device(TypedDict):
    """What `choose` asks of a device."""

    processors: int
    capability: tuple[int, int]


def device(where: torch.device) -> Device:
    """Streaming multiprocessors and compute capability of a GPU; for the interpreter, of the smallest."""
    if where.type != "cuda":
        return {"processors": 1, "capability": (8, 0)}
    found = torch.cuda.get_device_properties(where)
    return {"processors": found.multi_processor_count, "capability": (found.major, found.minor)}


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
