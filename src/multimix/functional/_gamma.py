"""Gamma variates in bulk on the CPU, exactly: elementwise operations over blocks small enough for the cache.

PyTorch's own kernel (`torch._standard_gamma`) draws one after another. Here Marsaglia and Tsang's method (2000) is
applied to a block part by part, then to what it rejected, and only the last few are left to that kernel. It is
stated for shapes of at least 1, but holds for all above 1/3: with c = 1 / sqrt(9 d), the logarithm w(x) of its
probability of acceptance has w(0) = 0 and w'(x) = -(c x)^3 / (3 c (1 + c x)), so that it is nowhere positive. So shapes
down to 1/2 need no second variate, and their powers stay far from underflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LEAST_SHAPE = 0.5
"""The least shape of `gamma_`: below, it would reject too many."""

# With fewer draws the calls of a part's operations take longer than PyTorch's kernel.
_FEW = 1000

# Probabilities of acceptance are multiplied by it, to be cut to bytes: below 256 whatever rounding does.
_TOP = 255.9


class Scratch:
    """Memory for the parts of a block, one after another: taking fresh memory for every operation costs as much time as
    the arithmetic, and what does not fit into the cache costs more."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.first = torch.empty(size, dtype=dtype, device="cpu")
        self.second = torch.empty_like(self.first)
        self.words = torch.empty((size + 1) // 2, dtype=torch.int64, device="cpu")
        self.bytes = torch.empty(size, dtype=torch.uint8, device="cpu")
        self.mask = torch.empty(size, dtype=torch.bool, device="cpu")

    def rows(self, block: Tensor) -> Iterator[slice]:
        """The rows of every part of a block, whose width is at most the size."""
        step = len(self.first) // block.shape[1]
        return (slice(start, start + step) for start in range(0, block.shape[0], step))


def gamma_(out: Tensor, shape: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` (rows, m) with Gamma(shape) variates / (shape - 1/3); `shape` (rows, 1) is at least 1/2.

    With d = shape - 1/3, c = 1 / sqrt(9 d), x normal and v = (1 + c x)^3, v is accepted with the probability
    exp(x^2 / 2 + d - d v + d log v). A uniform variate is compared with it by its first byte, which decides all but a
    few; the other digits are drawn for these alone, since generating bits is the largest part of the cost.
    """
    d = shape - 1 / 3
    c, minus_d, most = (9 * d).rsqrt_(), -d, d + math.log(_TOP)
    undecided = []
    for rows in scratch.rows(out):
        v = out[rows]
        size = v.numel()
        x, odds = scratch.first[:size].view_as(v).normal_(generator=generator), scratch.second[:size].view_as(v)
        # Where 1 + c x is not positive, the logarithm of so small a number leaves no chance of acceptance.
        torch.mul(x, c[rows], out=v).add_(1).clamp_(min=torch.finfo(v.dtype).tiny)
        torch.log(v, out=odds)
        torch.sub(v.pow_(3), odds, alpha=3, out=odds)
        odds.mul_(minus_d[rows]).add_(most[rows]).addcmul_(x, x, value=0.5)
        odds = odds.clamp_(min=-80).exp_().view(-1)  # underflow is slow, and no chance at all comes to the same
        first_byte = scratch.words[: (size + 7) // 8].random_(-(2**63), None, generator=generator)
        first_byte = first_byte.view(torch.uint8)[:size]
        surely = scratch.bytes[:size].copy_(odds)
        open_ = torch.ge(first_byte, surely, out=scratch.mask[:size]).nonzero().view(-1)
        undecided.append(
            (odds.index_select(0, open_), first_byte.index_select(0, open_), open_.add_(rows.start * v.shape[1]))
        )
    odds, first_byte, open_ = (torch.cat(each) for each in zip(*undecided, strict=True))
    uniform = torch.empty_like(odds).uniform_(generator=generator).add_(first_byte).mul_(_TOP / 256)
    rejected = open_.masked_select(uniform >= odds)
    shape_rejected = shape.view(-1).index_select(0, rejected // out.shape[1])[:, None]
    if rejected.numel() > _FEW:
        redrawn = gamma_(torch.empty_like(shape_rejected), shape_rejected, scratch, generator)
    else:
        redrawn = torch._standard_gamma(shape_rejected, generator=generator).div_(shape_rejected - 1 / 3)
    out.view(-1).index_copy_(0, rejected, redrawn.view(-1))
    return out


def half_integer_gamma_(out: Tensor, twice_shape: int, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` with Gamma(k / 2) variates, k = `twice_shape`: k // 2 exponential ones summed, and for odd k half the
    square of a normal one."""
    for rows in scratch.rows(out):
        part = out[rows]
        if twice_shape % 2:
            part.normal_(generator=generator).square_().mul_(0.5)
        else:
            log_uniform_(part, scratch, generator).neg_()
        for _ in range((twice_shape - 1) // 2):
            part.sub_(log_uniform_(scratch.first[: part.numel()].view_as(part), scratch, generator))
        part.clamp_(min=torch.finfo(out.dtype).tiny)
    return out


def log_gamma_(out: Tensor, shape: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` with logs of Gamma(shape) variates, each row up to a constant, for any positive `shape` (rows, 1).

    For small shapes, Gamma(a) = Gamma(a + 1) U^(1/a).
    """
    small = shape < LEAST_SHAPE
    gamma_(out, shape + small, scratch, generator).log_()
    boosted = small.view(-1).nonzero().view(-1)
    for rows in boosted.split(len(scratch.first) // out.shape[1]):
        boost = scratch.first[: rows.numel() * out.shape[1]].view(-1, out.shape[1])
        out.index_add_(0, rows, log_uniform_(boost, scratch, generator).div_(shape.index_select(0, rows)))
    return out


def log_uniform_(out: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out`, one part, with logs of U(0, 1) variates, always finite."""
    if out.dtype != torch.float32:
        return out.uniform_(generator=generator).neg_().add_(1).log_()
    # Two uniforms from every 64-bit draw.
    words = scratch.words[: (out.numel() + 1) // 2].random_(generator=generator)
    out.copy_(words.view(torch.int32)[: out.numel()].view_as(out))
    return out.add_(0.5).abs_().log_().sub_(31 * math.log(2))
