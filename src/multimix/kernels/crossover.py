"""What `implementation="auto"` takes: the Triton kernels where they were measured to be faster.

The sizes are recorded, not found by timing at run time: the kernel of the sampled loss draws other weights than the
chunked path, so a race between the two would let the noise of a clock decide which numbers a seed gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..functional._checks import by_position
from ..functional._transforms import asked_once
from . import triton_launch

Table = dict[tuple[int, int, str], float]
"""From compute capability and precision to the least size from which the kernel was faster."""

MEASURED: Table = {}
"""The least r n b c (`benchmarks/crossover.py`), by the precision of `triton_launch.precision`.

Empty, because the kernel has not run on a GPU yet: until it has, "auto" takes the chunked path everywhere."""

MEASURED_CLOSED_FORM: Table = {}
"""The same for n = infinity: the least r b c, by the dtype of the logits. Empty for the same reason."""

MOST_MEASURED = 128
"""Examples. In larger mini-batches the kernel of the sampled loss runs out of registers in some precisions."""


def takes_kernel(
    implementation: str, targets: Tensor, is_faster: Callable[[], bool], why_not: Callable[[], str | None]
) -> bool:
    """Whether a kernel is to compute the loss.

    Args:
        is_faster, why_not: of the logits: whether "auto" would choose the kernel, and why it cannot run.

    Raises:
        ValueError: `implementation="triton"` where it cannot run.
    """
    own = by_position(targets)
    if implementation != "triton":
        return implementation == "auto" and not own and is_faster()
    obstacle = "a target for every position" if own else why_not()
    if obstacle:
        raise ValueError(f"implementation='triton' does not work for {obstacle}; use implementation='auto'")
    return True


def kernel_is_faster(logits_PBC: Tensor, n: int) -> bool:
    """Whether the kernel can take these logits, and was measured to be faster at this size on such a device."""
    by = triton_launch.precision(logits_PBC.dtype)
    return _listed(MEASURED, logits_PBC, n, by) and triton_launch.why_not(logits_PBC) is None


def closed_form_kernel_is_faster(logits_PBC: Tensor) -> bool:
    """The same for n = infinity."""
    by = str(logits_PBC.dtype).removeprefix("torch.")
    return _listed(MEASURED_CLOSED_FORM, logits_PBC, 1, by) and triton_launch.why_not_closed_form(logits_PBC) is None


def _listed(measured: Table, logits_PBC: Tensor, n: int, by: str) -> bool:
    if logits_PBC.device.type != "cuda" or not measured or logits_PBC.shape[1] > MOST_MEASURED:
        return False
    return n * logits_PBC.numel() >= measured.get((*_capability(logits_PBC.device), by), math.inf)


@asked_once
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
