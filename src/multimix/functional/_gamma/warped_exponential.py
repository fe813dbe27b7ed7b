"""Gamma variates of shapes from 1/2 to 2: exponential ones, warped so that nearly none needs to be rejected.

An exponential variate E is a Gamma(1) one. The quantiles of Gamma(a) go like E far from 0, and near 0 like E^(1/a)
times a series in powers of E^(1/a): those of sqrt(E) for a = 2, of E for a = 1, of E^2 for a = 1/2. So does

    T(E) = C x P(y)^(-2k / 3),    P(y) = 1 + c1 y + c2 y^2 + y^3,    y = x^(-1/2),    x = E / s,    k = 1/a - 1,

with s, C, c1 and c2 fitted to a below: one reciprocal root, one logarithm and one exponential function. Rejection makes
the draws exact whatever the fit: E is accepted with the probability R(E) / HIGH, where R is the ratio of the densities
of Gamma(a) and of T(E), as functions of E,

    R(E) = f_a(T) T'(E) / exp(-E) = exp(a log T - T + E) / (Gamma(a) E) (1 + k y P'(y) / (3 P(y))),

and HIGH a bound of it. R / HIGH is at least SURE for E < CUT, and beyond between a half and 1. So an E below CUT with a
uniform variate below SURE is accepted without computing R. Only the others, one in seventy-five, are looked at. It is
chance alone that decides which these are: all are drawn as if they were not, and then those that are anew.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .scratch import Scratch, signed_uniform_

MOST_SHAPE = 2.0
"""The fit is for shapes from 1/2 to this."""

# log s, log (C / s), c1 and c2 as polynomials in log a, from the constant on: what leaves least to look at.
FIT = ((0.5172, 0.3024, 0.0804), (0.0007, -0.1117, 0.0811), (1.5169, 0.1907, -0.3199), (0.9849, 1.3414, 0.5352))

HIGH = 1.0068

# R(E) / HIGH is at least SURE for E < CUT, and at most 1 for E <= CUT + LONGEST: the tests look. What is beyond, one
# variate in 10^12, is drawn below it.
CUT, SURE, LONGEST = 7.0, 0.9876, 22.0

_BEYOND = math.exp(-CUT)
_LOOK = 1 - SURE * (1 - _BEYOND)


def gamma_(out: Tensor, shape: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out` (rows, m) with Gamma(shape) variates, each row up to a factor.

    `shape` (rows, 1) is in [1/2, 2]. The scratch memory is for at least a tenth of the variates, which are not few.
    """
    warp = Warp.of(shape)
    minus_inverse_s = -1 / warp.s
    for rows in scratch.rows(out):
        part = out[rows]
        x, y = (memory[: part.numel()].view_as(part) for memory in (scratch.first, scratch.second))
        _minus_exponential_below_cut_(x, scratch, generator).mul_(minus_inverse_s[rows])
        _t_(_p_(part, torch.rsqrt(x, out=y), warp.c1[rows], warp.c2[rows]), x, warp.power[rows])
    looked_at = _bernoulli(out.numel(), _LOOK, generator)
    rows_of_these = looked_at.double().add_(0.5).mul_(1 / out.shape[1]).long()
    out.view(-1).index_copy_(0, looked_at, _looked_at(warp.of_rows(rows_of_these), scratch, generator))
    return out


def _looked_at(warp: Warp, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """T / C, or what is drawn in its place, of variates beyond CUT or with a uniform one above SURE, a row each."""
    x = _minus_exponential_below_cut_(torch.empty_like(warp.s), scratch, generator).div_(warp.s).neg_()
    bar = torch.empty_like(x).uniform_(generator=generator)
    beyond = (bar < _BEYOND / _LOOK).nonzero().view(-1)
    # Of the others the same variate serves again, and is above SURE; those beyond CUT may have any.
    bar.sub_(1).mul_((1 - SURE) / (1 - _BEYOND / _LOOK)).add_(1)
    bar.index_copy_(0, beyond, x.new_empty(len(beyond)).uniform_(generator=generator))
    minus_e = x.new_empty(len(beyond), dtype=torch.float64).uniform_(math.exp(-LONGEST), 1, generator=generator).log_()
    x.index_copy_(0, beyond, torch.rsub(minus_e, CUT).to(x.dtype).div_(warp.s.index_select(0, beyond)))
    t, ratio = warp.t_and_ratio(x)
    rejected = (bar > ratio).nonzero().view(-1)
    again = torch._standard_gamma(warp.shape.index_select(0, rejected), generator=generator)
    return t.index_copy_(0, rejected, again.div_(warp.c.index_select(0, rejected)))


def _p_(out: Tensor, y: Tensor, c1: Tensor, c2: Tensor) -> Tensor:
    """Fill `out` with P(y)."""
    torch.addcmul(c1, torch.add(y, c2, out=out), y, out=out)
    return torch.addcmul(y.new_ones(()), out, y, out=out)


def _t_(p: Tensor, x: Tensor, power: Tensor) -> Tensor:
    """Replace P by T / C."""
    return p.log2_().mul_(power).exp2_().mul_(x)


class Warp(NamedTuple):
    """T and R for shapes of any shape."""

    shape: Tensor
    s: Tensor
    c: Tensor
    c1: Tensor
    c2: Tensor
    power: Tensor
    """-2k / 3."""
    log_constant: Tensor
    """log(C^a / (Gamma(a) s HIGH)), the factor of R / HIGH that does not depend on E."""

    @classmethod
    def of(cls, shape: Tensor) -> Warp:
        log_a = shape.log()
        constants, slopes, squares = shape.new_tensor(FIT).T.view(3, 4, *[1] * shape.ndim)
        fitted = torch.addcmul(constants, torch.addcmul(slopes, squares, log_a), log_a)
        log_s, c1, c2 = fitted[0], fitted[2], fitted[3]
        log_c = fitted[1] + log_s
        constant = torch.addcmul(shape.lgamma().add_(log_s).add_(math.log(HIGH)).neg_(), shape, log_c)
        return cls(shape, log_s.exp(), log_c.exp(), c1, c2, (1 - 1 / shape) * (2 / 3), constant)

    def of_rows(self, rows: Tensor) -> Warp:
        return Warp(*(column.view(-1).index_select(0, rows) for column in self))

    def t_and_ratio(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """T / C and R / HIGH at E = x s."""
        y = x.rsqrt()
        p = _p_(torch.empty_like(y), y, self.c1, self.c2)
        t = _t_(p.clone(), x, self.power)
        log_r = (t.log() * self.shape).addcmul_(t, self.c, value=-1).addcmul_(x, self.s)
        ratio = log_r.sub_(x.log()).add_(self.log_constant).exp_()
        third_of_slope = (y + self.c2 * (2 / 3)).mul_(y).add_(self.c1 / 3).mul_(y)  # y P' / 3
        slope = third_of_slope.div_(p).mul_(1 / self.shape - 1).add_(1)
        return t, ratio.mul_(slope)


def _minus_exponential_below_cut_(out: Tensor, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """Fill `out`, one part, with -E, E exponential given that 0 < E < CUT: the logs of U(exp(-CUT), 1) variates."""
    # A little shorter, so that none is rounded to 1.
    length = (1 - _BEYOND) * (1 - 2 * torch.finfo(out.dtype).eps)
    signed_uniform_(out, scratch, generator)
    return torch.add(out.new_tensor((1 + _BEYOND) / 2), out, alpha=length / 2**32, out=out).log_()


def _bernoulli(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which of `count` things happen, sorted, each with the probability, independently: by the gaps between them."""
    expected = count * probability
    per_gap = 1 / math.log1p(-probability)
    happened, last = [], -1
    while last < count:
        gaps = torch.empty(int(expected + 6 * math.sqrt(expected)) + 10, dtype=torch.float64, device="cpu")
        gaps.uniform_(generator=generator).neg_().log1p_().mul_(per_gap)
        happened.append(gaps.long().add_(1).cumsum_(0).add_(last))
        last = int(happened[-1][-1])
    places = torch.cat(happened)
    return places[: int(torch.searchsorted(places, count))]
