"""What `implementation="auto"` takes: the Triton kernels where they were measured to be faster.

The sizes are recorded, not found by timing at run time: the kernel of the sampled loss draws other weights than the
chunked path, so a race between the two would let the noise of a clock decide which numbers a seed gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import triton_launch

MEASURED: dict[tuple[int, int], float] = {}
"""From compute capability to the least r n b c from which the kernel was faster (`benchmarks/crossover.py`).

Empty, because the kernel has not run on a GPU yet: until it has, "auto" takes the chunked path everywhere."""

MEASURED_CLOSED_FORM: dict[tuple[int, int], float] = {}
"""The same for n = infinity: the least r b c. Empty for the same reason."""


def kernel_is_faster(logits_PBC: Tensor, n: int) -> bool:
    """Whether the kernel can take these logits, and was measured to be faster at this size on such a device."""
    return _listed(MEASURED, logits_PBC, n) and triton_launch.why_not(logits_PBC) is None


def closed_form_kernel_is_faster(logits_PBC: Tensor) -> bool:
    """The same for n = infinity."""
    return _listed(MEASURED_CLOSED_FORM, logits_PBC, 1) and triton_launch.why_not_closed_form(logits_PBC) is None


def _listed(measured: dict[tuple[int, int], float], logits_PBC: Tensor, n: int) -> bool:
    if logits_PBC.device.type != "cuda" or not measured:
        return False
    return n * logits_PBC.numel() >= measured.get(torch.cuda.get_device_capability(logits_PBC.device), math.inf)
