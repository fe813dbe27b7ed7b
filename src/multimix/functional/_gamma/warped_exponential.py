"""Gamma variates of shapes from 1/2 to 2: exponential ones, warped so that nearly none needs to be rejected.

An exponential variate E is a Gamma(1) one. The quantiles of Gamma(a) go like E^(1/a) near 0, and like E far from it. So
does

    T(E) = C x (1 + x^-q)^(-k / q),    x = E / s,    k = 1/a - 1,

with s, q and C fitted to a below. Rejection makes the draws exact whatever the fit: E is accepted with the probability
R(E) / HIGH, where R is the ratio of the densities of Gamma(a) and of T(E), as functions of E,

    R(E) = f_a(T) T'(E) / exp(-E) = exp(a log T - T + E) / (Gamma(a) E) (1 + x^-q / a) / (1 + x^-q),

and HIGH its maximum, which the fit brings to 1.02 or less. R / HIGH is at least SURE for E < CUT, and falls slowly
beyond. So an E below CUT with a uniform variate below SURE is accepted without computing R. Only the others, one in
twenty-two, are looked at. It is chance alone that decides which these are, so they are chosen beforehand, by the gaps
between them, at no cost for all the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .scratch import Scratch, log_uniform_, signed_uniform_

MOST_SHAPE = 2.0
"""The fit is for shapes from 1/2 to this."""

# log s, log q, log (C / s) and log HIGH as polynomials in log a, from the constant on: what leaves least to look at and
# to reject.
_FIT = ((0.4504, 0.4297, 0.1389), (-0.3277, -0.2791, 0.0), (0.0043, -0.0335, -0.0727), (0.0050, 0.0013, 0.0179))

# R(E) / HIGH is at least SURE for E < CUT, and at most 1 for E <= CUT + LONGEST: the tests look. No variate is beyond,
# since a float32 uniform one has too few digits; a float64 one would be once in 10^12 times.
CUT, SURE, LONGEST = 5.5, 0.9592, 22.0

_BEYOND = math.exp(-CUT)
_LOOK = 1 - SURE * (1 - _BEYOND)


def log_gamma_(out: Tensor, shape: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` (rows, m) with logs of Gamma(shape) variates, each row up to a constant.

    `shape` (rows, 1) is in [1/2, 2]. The scratch memory is for at least a sixth of the variates, which are not few.
    """
    warp = Warp.of(shape.view(-1))
    looked_at = _bernoulli(out.numel(), _LOOK, scratch, generator)
    x = _fill_(out, warp, looked_at, scratch, generator)
    warp = warp.of_rows(looked_at.double().add_(0.5).mul_(1 / out.shape[1]).long())
    bar = torch.empty_like(x).uniform_(SURE, 1, generator=generator)
    # What is looked at because it is beyond CUT may have any uniform variate.
    beyond = _bernoulli(len(x), _BEYOND / _LOOK, scratch, generator)
    bar.index_copy_(0, beyond, x.new_empty(len(beyond)).uniform_(generator=generator))
    e = log_uniform_(x.new_empty(len(beyond)), scratch, generator).clamp_(min=-LONGEST).neg_().add_(CUT)
    x.index_copy_(0, beyond, e.div_(warp.s.index_select(0, beyond)))
    log_t, ratio = warp.log_t_and_ratio(x)
    rejected = (bar > ratio).nonzero().view(-1)
    again = torch._standard_gamma(warp.shape.index_select(0, rejected), generator=generator)
    log_t.index_copy_(0, rejected, again.div_(warp.c.index_select(0, rejected)).log_())
    out.view(-1).index_copy_(0, looked_at, log_t)
    return out


def _fill_(out: Tensor, warp: Warp, looked_at: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` with log(T / C) at variates below CUT, part by part; returns x at the places that are looked at."""
    m = out.shape[1]
    ends = torch.tensor([rows.stop * m for rows in scratch.rows(out)], device="cpu")
    looked_at_in_parts = looked_at.tensor_split(torch.searchsorted(looked_at, ends)[:-1])
    columns = -1 / warp.s, warp.minus_q, warp.minus_k_over_q
    minus_inverse_s, minus_q, minus_k_over_q = (column[:, None] for column in columns)
    chosen = []
    for rows, places in zip(scratch.rows(out), looked_at_in_parts, strict=True):
        part = out[rows]
        x, log_x = (memory[: part.numel()].view_as(part) for memory in (scratch.first, scratch.second))
        _minus_exponential_below_cut_(x, scratch, generator).mul_(minus_inverse_s[rows])
        chosen.append(x.view(-1).index_select(0, places - rows.start * m))
        _log_t_(part, torch.log(x, out=log_x), minus_q[rows], minus_k_over_q[rows])
    return torch.cat(chosen)


def _log_t_(out: Tensor, log_x: Tensor, minus_q: Tensor, minus_k_over_q: Tensor) -> Tensor:
    """Fill `out` with log(T / C)."""
    torch.mul(log_x, minus_q, out=out)
    return out.exp_().add_(1).log_().mul_(minus_k_over_q).add_(log_x)


class Warp(NamedTuple):
    """T and R for shapes (rows,)."""

    shape: Tensor
    s: Tensor
    c: Tensor
    minus_q: Tensor
    minus_k_over_q: Tensor
    log_constant: Tensor
    """log(C^a / (Gamma(a) s HIGH)), the factor of R / HIGH that does not depend on E."""

    @classmethod
    def of(cls, shape: Tensor) -> Warp:
        log_a = shape.log()
        constants, slopes, squares = shape.new_tensor(_FIT).T[:, :, None]
        logs = torch.addcmul(constants, torch.addcmul(slopes, squares, log_a), log_a)
        log_s, log_c, log_high = logs[0], logs[2].add_(logs[0]), logs[3]
        s, q, c = logs[:3].exp()
        constant = torch.addcmul(shape.lgamma().add_(log_s).add_(log_high).neg_(), shape, log_c)
        return cls(shape, s, c, -q, (1 - 1 / shape) / q, constant)

    def of_rows(self, rows: Tensor) -> Warp:
        return Warp(*torch.stack(self).index_select(1, rows))

    def log_t_and_ratio(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log(T / C) and R / HIGH at E = x s."""
        log_x = x.log()
        log_t = _log_t_(torch.empty_like(log_x), log_x, self.minus_q, self.minus_k_over_q)
        power = torch.mul(log_x, self.minus_q).exp_()
        log_r = torch.mul(log_t, self.shape).addcmul_(log_t.exp(), self.c, value=-1).addcmul_(x, self.s)
        ratio = log_r.sub_(log_x).add_(self.log_constant).exp_()
        return log_t, ratio.mul_(power.div(self.shape).add_(1)).div_(power.add_(1))


def _minus_exponential_below_cut_(out: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out`, one part, with -E, E exponential given that 0 < E < CUT: the logs of U(exp(-CUT), 1) variates."""
    # A little shorter, so that none is rounded to 1.
    length = (1 - _BEYOND) * (1 - 2 * torch.finfo(out.dtype).eps)
    signed_uniform_(out, scratch, generator)
    return torch.add(out.new_tensor((1 + _BEYOND) / 2), out, alpha=length / 2**32, out=out).log_()


def _bernoulli(count: int, probability: float, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Which of `count` things happen, sorted, each with the probability, independently: by the gaps between them."""
    expected = count * probability
    per_gap = 1 / math.log1p(-probability)
    happened, last = [], -1
    while last < count:
        gaps = scratch.first.new_empty(int(expected + 6 * math.sqrt(expected)) + 10)
        log_uniform_(gaps, scratch, generator).mul_(per_gap)
        happened.append(gaps.long().add_(1).cumsum_(0).add_(last))
        last = int(happened[-1][-1])
    places = torch.cat(happened)
    return places[: int(torch.searchsorted(places, count))]
