"""Gamma variates in bulk on the CPU, exactly: elementwise operations over blocks small enough for the cache.

PyTorch's own kernel (`torch._standard_gamma`) draws one after another. Here a method of rejection is applied to a block
part by part, and only what it rejected is left to that kernel: `warped_exponential` for shapes of 1/2 to 2, where it
rejects one in a hundred and fifty, `marsaglia_tsang` for larger ones, and a second variate for smaller ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import marsaglia_tsang, warped_exponential
from .scratch import Scratch, log_uniform_

__all__ = ["LEAST_SHAPE", "Scratch", "gamma_", "half_integer_gamma_", "log2_small_gamma_"]

LEAST_SHAPE = 0.5
"""Below it both methods would reject too many."""

# Of fewer, PyTorch draws one after another in less time than the calls of the operations on all of them take.
_FEW = 2**13


def gamma_(out: Tensor, shape: Tensor, most: float, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` (rows, m) with Gamma(shape) variates, each row up to a factor; `shape` (rows, 1) is from LEAST_SHAPE
    to `most`."""
    if out.numel() < _FEW:
        return out.copy_(torch._standard_gamma(shape.expand_as(out).contiguous(), generator=generator))
    method = warped_exponential if most <= warped_exponential.MOST_SHAPE else marsaglia_tsang
    return method.gamma_(out, shape, scratch, generator)


def log2_small_gamma_(out: Tensor, shape: Tensor, most: float, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` with logarithms to base 2 of such variates for any positive shapes: Gamma(a) = Gamma(a + 1) U^(1/a)
    for small ones."""
    small = shape < LEAST_SHAPE
    gamma_(out, shape + small, most, scratch, generator).log2_()
    power = small / (shape * math.log(2))
    for rows in scratch.rows(out):
        part = out[rows]
        part.addcmul_(log_uniform_(scratch.first[: part.numel()].view_as(part), scratch, generator), power[rows])
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
