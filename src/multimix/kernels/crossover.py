"""What `implementation="auto"` takes for the sampled loss: the Triton kernel where it was measured to be faster.

The sizes are recorded, not found by timing at run time: the kernel draws other weights than the chunked path, so a race
between the two would let the noise of a clock decide which numbers a seed gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import triton_launch

MEASURED: dict[tuple[int, int], float] = {}
"""From compute capability to the least r n b c from which the kernel was faster (`benchmarks/crossover.py`).

Empty, because the kernel has not run on a GPU yet: until it has, "auto" takes the chunked path everywhere."""


def kernel_is_faster(logits_PBC: Tensor, n: int) -> bool:
    """Whether the kernel can take these logits, and was measured to be faster at this size on such a device."""
    if logits_PBC.device.type != "cuda" or not MEASURED:
        return False
    least = MEASURED.get(torch.cuda.get_device_capability(logits_PBC.device), math.inf)
    return n * logits_PBC.numel() >= least and triton_launch.why_not(logits_PBC) is None
