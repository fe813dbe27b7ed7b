"""Memory that stays in the cache, and uniform variates from few random bits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


class Scratch:
    """Memory for the parts of a block, one after another: taking fresh memory for every operation costs as much time as
    the arithmetic, and what does not fit into the cache costs more."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.first, self.second = (torch.empty(size + size % 2, dtype=dtype, device="cpu") for _ in range(2))
        self.words = self.first.view(torch.int64)
        """The first memory as 64-bit words."""

    def rows(self, block: Tensor) -> Iterator[slice]:
        """The rows of every part of a block, whose width is at most the size."""
        step = len(self.first) // block.shape[1]
        return (slice(start, min(start + step, len(block))) for start in range(0, len(block), step))


def signed_uniform_(out: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out`, one part, with U(-1, 1) variates times 2^31; the first scratch memory is lost, unless it is `out`."""
    if out.dtype != torch.float32:
        return out.uniform_(-(2.0**31), 2.0**31, generator=generator)
    # Two uniforms from every 64-bit draw.
    words = scratch.words[: (out.numel() + 1) // 2].random_(-(2**63), None, generator=generator)
    return out.copy_(words.view(torch.int32)[: out.numel()].view_as(out))


def log_uniform_(out: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """The same with logs of U(0, 1) variates, always finite."""
    if out.dtype != torch.float32:
        return out.uniform_(generator=generator).neg_().add_(1).log_()
    return signed_uniform_(out, scratch, generator).add_(0.5).abs_().log_().sub_(31 * math.log(2))
