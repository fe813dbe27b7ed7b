"""Gamma variates of shapes from 1/2 on, by Marsaglia and Tsang's method (2000) in bulk.

The method is applied to a block part by part, then to what it rejected, and only the last few are left to PyTorch. It
is stated for shapes of at least 1, but holds for all above 1/3: with c = 1 / sqrt(9 d), the logarithm w(x) of its
probability of acceptance has w(0) = 0 and w'(x) = -(c x)^3 / (3 c (1 + c x)), so that it is nowhere positive. So shapes
down to 1/2 need no second variate, and their powers stay far from underflow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .scratch import Scratch

# With fewer draws the calls of a part's operations take longer than PyTorch's kernel.
_FEW = 1000

# Probabilities of acceptance are multiplied by it, to be cut to bytes: below 256 whatever rounding does.
_TOP = 255.9


def gamma_(out: Tensor, shape: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` (rows, m) with Gamma(shape) variates / (shape - 1/3); `shape` (rows, 1) is at least 1/2.

    With d = shape - 1/3, c = 1 / sqrt(9 d), x normal and v = (1 + c x)^3, v is accepted with the probability
    exp(x^2 / 2 + d - d v + d log v). A uniform variate is compared with it by its first byte, which decides all but a
    few; the other digits are drawn for these alone, since generating bits is the largest part of the cost.
    """
    d = shape - 1 / 3
    c, minus_d, most = (9 * d).rsqrt_(), -d, d + math.log(_TOP)
    # There all but one in 10^6 are accepted, and of the sum above only rounding would be left.
    large = d > 2**20
    any_large = bool(large.any())
    undecided = []
    most_at_once = min(out.numel(), len(scratch.first))
    words = torch.empty((most_at_once + 7) // 8, dtype=torch.int64, device="cpu")
    sure = torch.empty(most_at_once, dtype=torch.uint8, device="cpu")
    is_open = torch.empty(most_at_once, dtype=torch.bool, device="cpu")
    for rows in scratch.rows(out):
        v = out[rows]
        size = v.numel()
        x, odds = scratch.first[:size].view_as(v).normal_(generator=generator), scratch.second[:size].view_as(v)
        # Where 1 + c x is not positive, the logarithm of so small a number leaves no chance of acceptance.
        torch.mul(x, c[rows], out=v).add_(1).clamp_(min=torch.finfo(v.dtype).tiny)
        torch.log(v, out=odds)
        torch.sub(v.pow_(3), odds, alpha=3, out=odds)
        odds.mul_(minus_d[rows]).add_(most[rows]).addcmul_(x, x, value=0.5)
        if any_large:
            odds.masked_fill_(large[rows], math.log(_TOP))
        odds = odds.clamp_(min=-80).exp_().view(-1)  # underflow is slow, and no chance at all comes to the same
        first_byte = words[: (size + 7) // 8].random_(-(2**63), None, generator=generator)
        first_byte = first_byte.view(torch.uint8)[:size]
        surely = sure[:size].copy_(odds)
        open_ = torch.ge(first_byte, surely, out=is_open[:size]).nonzero().view(-1)
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
