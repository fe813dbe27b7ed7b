"""Interpolation weights: rows of Lambda transposed, drawn from symmetric Dirichlet distributions (section 3.2).

A Dirichlet vector is a normalised vector of independent Gamma(alpha) variables. On the CPU the weights are drawn part
by part, in memory that stays in the cache. Where alpha may be small, normalisation is in log space, so that nothing
underflows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .. import random
from . import _gamma
from ._checks import Alpha, check_alpha, check_count

# Elements handed out at a time: a block stays in the cache, of a GPU too (16 MiB in float32, not measured there).
_BLOCK_CPU, _BLOCK_ACCELERATOR = 2**18, 2**22

# Elements on which the operations of a draw follow each other: what a seed draws depends on it, and on the block.
_PART = 2**17

# On the CPU, subsets of up to so many examples are drawn example by example: the cost grows with the square of m.
_FEW_PLACES = 16

# Beyond these a row is one-hot, or uniform, to any precision, and float32 would overflow.
ALPHA_LEAST, ALPHA_MOST = 1e-30, 1e30


def sample_weights(
    n: int,
    b: int,
    m: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    positions: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw interpolation weights lambda_k ~ Dir(alpha), k = 1..n, over the examples of a mini-batch (section 3.2).

    Args:
        n: number of mixed examples.
        b: mini-batch size.
        m: examples per mixture: each row has m nonzeros, at a random subset of the batch (section 4.6).
            Default: b.
        alpha: Dirichlet concentration, or a range (low, high): then alpha ~ U[low, high] is drawn for every row.
        positions: draw a fresh set of rows for every spatial position (section 3.3).
        generator: source of randomness; default: `multimix.random.default_generator`. If it is on another device
            than `device`, one number drawn from it seeds a generator there.
        device: default: the generator's, else the default device.
        dtype: floating-point type of the result; the draws are made in float32 or better.

    Returns:
        (n, b), or (positions, n, b). Every row is on the simplex: non-negative, sum 1.

    Raises:
        TypeError, ValueError: an argument is not a count, m > b, alpha <= 0, dtype not floating point.

    >>> lam = sample_weights(1000, 128, generator=torch.Generator().manual_seed(0))
    >>> lam.shape, bool((lam >= 0).all()), round(float(lam.sum(1).mean()), 4)
    (torch.Size([1000, 128]), True, 1.0)
    >>> pairs = sample_weights(5, 8, m=2, alpha=1.0)
    >>> (pairs > 0).sum(1).tolist()
    [2, 2, 2, 2, 2]
    """
    check_count("n", n, least=0)
    check_count("b", b)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating point, such as torch.float32, got {dtype!r}")
    if generator is not None:
        random.check_generator(generator)
    if device is None:
        device = generator.device if generator is not None else torch.get_default_device()
    leading = 1 if positions is None else check_count("positions", positions, least=0)
    lam = torch.empty(leading, n, b, device=device, dtype=dtype)
    for where, rows, block in iter_weights(n, b, m, alpha, leading, random.fork(generator, device), dtype):
        lam[where, rows] = block
    return lam[0] if positions is None else lam


def iter_weights(
    n: int, b: int, m: int | None, alpha: Alpha, positions: int, generator: torch.Generator, dtype: torch.dtype
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The same weights as `sample_weights`, block by block: (positions, rows, weights (p, k, b)).

    The order of the draws does not depend on who consumes them, so the loss that never holds all the weights
    sees exactly those that `sample_weights` returns. A block lies in the memory of the one before.
    """
    low, high = (min(max(end, ALPHA_LEAST), ALPHA_MOST) for end in check_alpha(alpha))
    m = b if m is None else check_count("m", m, most=b)
    on_cpu = generator.device.type == "cpu"
    limit = _BLOCK_CPU if on_cpu else _BLOCK_ACCELERATOR
    rows_at_once = max(1, min(n, limit // b))
    positions_at_once = max(1, min(positions, limit // (b * max(n, 1)))) if rows_at_once == n else 1
    compute = torch.promote_types(dtype, torch.float32)
    memory = torch.empty(positions_at_once * rows_at_once, b, device=generator.device, dtype=compute)
    draw: Callable[[Tensor, int, float, float], None] = functools.partial(_draw_unsynchronized, generator=generator)
    if on_cpu:
        scratch = _gamma.Scratch(max(b, min(memory.numel(), _PART)), compute)
        draw = functools.partial(_draw, scratch=scratch, generator=generator)
    for first in range(0, positions, positions_at_once):
        where = slice(first, min(first + positions_at_once, positions))
        for start in range(0, n, rows_at_once):
            rows = slice(start, min(start + rows_at_once, n))
            p, k = where.stop - where.start, rows.stop - rows.start
            block = memory[: p * k]
            draw(block, m, low, high)
            if dtype == torch.float16:  # the least that it can hold, so that m weights are not 0
                block = torch.where(block > 0, block.clamp(min=2**-24), block)
            yield where, rows, block.view(p, k, b).to(dtype)


@random.eager
def _draw(out: Tensor, m: int, low: float, high: float, scratch: _gamma.Scratch, generator: torch.Generator) -> None:
    """Fill `out` (rows, b): each row with Dir(alpha), alpha ~ U[low, high], on m places."""
    rows, b = out.shape
    lam = out if m == b else out.new_empty(rows, m)
    if low == high and 2 * low in (1, 2, 3, 4):
        _gamma.half_integer_gamma_(lam, int(2 * low), scratch, generator)
    else:
        alpha = out.new_empty(rows, 1).uniform_(low, high, generator=generator)
        if low < _gamma.LEAST_SHAPE:
            _gamma.log2_small_gamma_(lam, alpha, high, scratch, generator)
            # Numbers too small to be normal ones slow down all that is done with them.
            lam.sub_(lam.amax(1, keepdim=True)).clamp_(min=math.log2(torch.finfo(lam.dtype).tiny) + 10).exp2_()
        else:
            _gamma.gamma_(lam, alpha, high, scratch, generator)
    if m == 1:
        lam.fill_(1)  # x times 1/x may be less
    else:
        lam.mul_(lam.sum(1, keepdim=True).reciprocal_())
    if m < b:
        _scatter_(out, lam, generator)


def _draw_unsynchronized(out: Tensor, m: int, low: float, high: float, generator: torch.Generator) -> None:
    """The same on an accelerator, where PyTorch's gamma kernel is parallel, and asking which draws were rejected would
    make the host wait for the device."""
    rows, b = out.shape
    alpha = out.new_empty(rows, 1).uniform_(low, high, generator=generator)
    lam = torch.softmax(_log_gamma_unsynchronized(alpha, m, generator), dim=1)
    if m < b:
        _scatter_(out, lam, generator)
    else:
        out.copy_(lam)


def _log_gamma_unsynchronized(alpha: Tensor, m: int, generator: torch.Generator) -> Tensor:
    """(rows, m): logs of Gamma(alpha) variates, as Gamma(alpha + 1) U^(1/alpha)."""
    shape = (alpha + 1).expand(-1, m).contiguous()
    boost = torch.empty_like(shape).uniform_(generator=generator).neg_().add_(1).log_().div_(alpha)
    return torch._standard_gamma(shape, generator=generator).log_().add_(boost)


def _scatter_(out: Tensor, lam: Tensor, generator: torch.Generator) -> None:
    """Fill `out` (rows, b) with `lam` (rows, m), every row on a uniformly random m-subset of the batch."""
    rows, m = lam.shape
    if m <= _FEW_PLACES and out.device.type == "cpu":
        subset = _subsets(rows, out.shape[1], m, generator)
    else:
        keys = torch.rand(out.shape, generator=generator, device=out.device, dtype=torch.float32)
        subset = keys.topk(m, dim=1, sorted=False).indices
    out.zero_().scatter_(1, subset, lam)


def _subsets(rows: int, b: int, m: int, generator: torch.Generator) -> Tensor:
    """(rows, m): in every row m of the numbers below b, by Floyd's algorithm (Bentley and Floyd 1987).

    The i-th is drawn from those up to b - m + i, and replaced by the last of these if it is there already.
    """
    chosen = torch.empty(m, rows, dtype=torch.int64, device="cpu")
    for i, row in enumerate(chosen):
        last = b - m + i
        row.random_(0, last + 1, generator=generator)
        row.masked_fill_((chosen[:i] == row).any(0), last)
    return chosen.T
