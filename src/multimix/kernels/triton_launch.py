"""When the Triton kernel of the sampled loss can run, and with which sizes of blocks; needs no Triton itself.

The sizes are chosen by what fits: registers and shared memory as the compiler reports them for compute capability 8.0,
sums that the programs keep apart, and full use of the device. They have not been measured on a GPU yet.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import NamedTuple

import torch
from torch import Tensor

MOST_EXAMPLES = 256
"""Largest mini-batch: a block holds whole rows of weights."""

# What the largest blocks take, as the compiler reports it; GPUs for data centres have it since compute capability 8.0.
_SHARED_MEMORY = 160 * 2**10
_ELEMENTS_PER_THREAD = 16  # of weights drawn at once: every one needs about ten registers
_PARTIAL_SUMS = 2**26  # bytes of gradients kept apart, unless one copy for each position is more


class Launch(NamedTuple):
    """Sizes of blocks: mixtures BN, examples BB, classes BC; whether a block of weights is drawn in two halves; warps
    of a program, stages of its software pipeline, and `splits` programs for each position."""

    BN: int
    BB: int
    BC: int
    halves: bool
    warps: int
    stages: int
    splits: int


def choose(*, positions: int, n: int, b: int, c: int, precision: str, processors: int) -> Launch:
    """Sizes for a device with so many streaming multiprocessors.

    >>> choose(positions=49, n=1000, b=128, c=1000, precision="bf16", processors=132)
    Launch(BN=64, BB=128, BC=64, halves=True, warps=8, stages=2, splits=2)
    """
    BB = max(16, _power_of_two(b))
    BC = max(16, _power_of_two(c))
    if BC > 128 or (2**14 if precision == "bf16" else 2**13) < BB * BC:  # else the gradient stays in registers
        BC = 64 if BB <= 128 else 32
    BN = 64 if BB <= 128 else 32
    while BN > 16 and positions * math.ceil(n / BN) < processors:
        BN //= 2
    warps = 8 if BN * BB >= 4096 else 4
    blocks = math.ceil(n / BN)
    resident = processors * (8 // warps)
    most = max(1, min(blocks, max(_PARTIAL_SUMS // (4 * positions * b * c), 2)))
    # Rounds of programs times blocks of each: the time, if all blocks take equally long.
    splits = min(range(1, most + 1), key=lambda S: (math.ceil(positions * S / resident) * math.ceil(blocks / S), S))
    return Launch(BN, BB, BC, _ELEMENTS_PER_THREAD * 32 * warps < BN * BB, warps, 2, splits)


def why_not(logits_PBC: Tensor) -> str | None:
    """Why the kernel cannot take these logits, or None if it can."""
    if logits_PBC.dtype == torch.float64:
        return "float64 logits: the kernel computes in float32"
    if logits_PBC.shape[1] > MOST_EXAMPLES:
        return f"a mini-batch of {logits_PBC.shape[1]}: the kernel takes at most {MOST_EXAMPLES} examples"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if logits_PBC.device.type != "cuda" or torch.version.cuda is None:
        return (
            f"logits on {logits_PBC.device}: the kernel needs an NVIDIA GPU (or TRITON_INTERPRET=1, to test on the CPU)"
        )
    major, minor = torch.cuda.get_device_capability(logits_PBC.device)
    if major < 8:
        return f"compute capability {major}.{minor}: the kernel needs 8.0 or higher"
    shared = torch.cuda.get_device_properties(logits_PBC.device).shared_memory_per_block_optin
    if shared < _SHARED_MEMORY:
        return f"{shared // 1024} KiB of shared memory: the kernel needs {_SHARED_MEMORY // 1024}, as on A100 and later"
    return None


def precision(dtype: torch.dtype) -> str:
    """How the kernel multiplies: in the logits' own precision if they are bfloat16, else as
    `torch.set_float32_matmul_precision` asks for float32. Sums are float32 in any case."""
    if dtype == torch.bfloat16:
        return "bf16"
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "tf32x3" if exact else "tf32"


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
