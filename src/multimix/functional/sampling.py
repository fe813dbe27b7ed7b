"""Interpolation weights: rows of Lambda transposed, drawn from symmetric Dirichlet distributions (section 3.2).

A Dirichlet vector is a normalised vector of independent Gamma(alpha) variables. PyTorch's CPU gamma kernel is
serial and dominates the whole loss, so the gammas are drawn here in bulk, exactly: the rejection method of
Marsaglia and Tsang (2000) as elementwise operations over whole blocks, where the few per cent that are rejected
are redrawn. Everything stays in log space, so that tiny alpha neither under- nor overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .. import random
from ._checks import Alpha, check_alpha, check_count

# Elements drawn at a time: on the CPU a block stays in the cache; elsewhere few launches matter more.
_BLOCK_CPU, _BLOCK_ACCELERATOR = 2**17, 2**25

# With this alpha a row is one-hot to any precision; with one much smaller, log(u) / alpha would overflow in float32.
_ALPHA_ONE_HOT = 1e-30


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
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating point, got {dtype}")
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
    sees exactly those that `sample_weights` returns.
    """
    low, high = check_alpha(alpha)
    m = b if m is None else check_count("m", m, most=b)
    device = generator.device
    limit = _BLOCK_CPU if device.type == "cpu" else _BLOCK_ACCELERATOR
    rows_at_once = max(1, min(n, limit // b))
    positions_at_once = max(1, limit // (b * max(n, 1))) if rows_at_once == n else 1
    for first in range(0, positions, positions_at_once):
        where = slice(first, min(first + positions_at_once, positions))
        for start in range(0, n, rows_at_once):
            rows = slice(start, min(start + rows_at_once, n))
            p, k = where.stop - where.start, rows.stop - rows.start
            block = _dirichlet(p * k, m, low, high, generator, torch.promote_types(dtype, torch.float32))
            if m < b:
                block = _scatter(block, b, generator)
            yield where, rows, block.view(p, k, b).to(dtype)


def _dirichlet(rows: int, m: int, low: float, high: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """(rows, m): each row from Dir(alpha), alpha ~ U[low, high]."""
    if low == high == 1.0:
        exponentials = _uniform((rows, m), generator, dtype).log_().neg_().clamp_(min=torch.finfo(dtype).tiny)
        return exponentials.div_(exponentials.sum(1, keepdim=True))
    low, high = max(low, _ALPHA_ONE_HOT), max(high, _ALPHA_ONE_HOT)
    alpha = torch.full((rows, 1), low, device=generator.device, dtype=dtype)
    if low != high:
        alpha += (high - low) * _uniform((rows, 1), generator, dtype)
    draw = _log_gamma_variates if generator.device.type == "cpu" else _log_gamma_variates_unsynchronized
    return torch.softmax(draw(alpha, m, generator), dim=1)


def _log_gamma_variates(alpha: Tensor, m: int, generator: torch.Generator) -> Tensor:
    """(rows, m): log of Gamma(alpha_k) variates, each row up to a constant, which normalisation removes.

    For alpha < 1, Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha).
    """
    small = alpha < 1
    d = alpha + small - 1 / 3
    log_v, accepted = _marsaglia_tsang(d, (d.shape[0], m), generator)
    rejected = accepted.logical_not_().view(-1).nonzero().view(-1)
    # A second attempt in bulk leaves so few that PyTorch's serial kernel costs nothing.
    d_rejected = d.view(-1)[rejected // m]
    redrawn, accepted = _marsaglia_tsang(d_rejected, d_rejected.shape, generator)
    left = accepted.logical_not_().nonzero().view(-1)
    d_left = d_rejected[left]
    redrawn[left] = torch._standard_gamma(d_left + 1 / 3, generator=generator).log_().sub_(d_left.log())
    log_v.view(-1)[rejected] = redrawn
    boosted = small.view(-1).nonzero().view(-1)
    if boosted.numel():
        boost = _uniform((boosted.numel(), m), generator, alpha.dtype).log_().div_(alpha[boosted])
        log_v.index_add_(0, boosted, boost)
    return log_v


def _log_gamma_variates_unsynchronized(alpha: Tensor, m: int, generator: torch.Generator) -> Tensor:
    """The same on an accelerator, where PyTorch's gamma kernel is parallel, and asking which draws were rejected would
    make the host wait for the device."""
    shape = (alpha + 1).expand(-1, m).contiguous()
    boost = _uniform(shape.shape, generator, alpha.dtype).log_().div_(alpha)
    return torch._standard_gamma(shape, generator=generator).log_().add_(boost)


def _marsaglia_tsang(d: Tensor, size: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One attempt: log v, where d v is Gamma(d + 1/3) if accepted, and whether it is.

    With c = 1 / sqrt(9 d), x normal and v = (1 + c x)^3, accept if log u < x^2 / 2 + d - d v + d log v.
    """
    x = torch.randn(size, generator=generator, device=generator.device, dtype=d.dtype)
    root = (x * (9 * d).rsqrt()).add_(1)
    log_v = root.log().mul_(3)  # NaN where 1 + c x < 0: the comparison below is then false, as it must be
    bound = x.square_().mul_(0.5).add_((log_v - root.pow_(3)).add_(1).mul_(d))
    return log_v, _uniform(size, generator, d.dtype).log_().lt(bound)


def _uniform(size: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Draws from U(0, 1), never 0, so that the logarithm is finite."""
    if dtype != torch.float32 or generator.device.type != "cpu":
        return torch.rand(size, generator=generator, device=generator.device, dtype=dtype).neg_().add_(1)
    # Two uniforms from every 64-bit draw: on the CPU generating bits is the larger part of the cost.
    count = math.prod(size)
    words = torch.empty((count + 1) // 2, dtype=torch.int64, device="cpu").random_(generator=generator)
    bits = words.view(torch.int32)[:count].view(size)
    return bits.bitwise_and_(2**31 - 1).to(torch.float32).add_(0.5).mul_(2.0**-31)


def _scatter(lam: Tensor, b: int, generator: torch.Generator) -> Tensor:
    """(rows, m) -> (rows, b): every row onto a uniformly random m-subset of the batch."""
    rows, m = lam.shape
    keys = torch.rand(rows, b, generator=generator, device=generator.device)
    subset = keys.topk(m, dim=1, sorted=False).indices
    return lam.new_zeros(rows, b).scatter_(1, subset, lam)
