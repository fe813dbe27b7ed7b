# mypy: disable-error-code="no-untyped-def, import-untyped"
"""The limit n -> infinity and its gradient in the logits by Triton; see `closed_form` for the equations by hand.

A program holds a tile of one position: all examples (padded to a power of two) and BC classes. So it can sum over
examples; what is summed over classes it writes as its part, and a small program for each position adds the parts up.
Four kernels read the logits once each, and only the last writes as much; `_attend` goes before them, with what follows
from the attention alone:

    _mean      mu and beta; parts of p . (l_i - mu), together with log-sum-exps of mu, which weigh them
    _nodes     v and the largest excess; parts of the log-sum-exp of z at every node; what soft targets add to the loss
    _slopes    the slopes in beta, v and the largest excess, and in mu but for what comes through p; parts of dq
    _gradient  what comes through p, and the gradient, scaled and in the precision of the logits

The first two are the forward pass, the others the backward pass, where the logits are at hand anyway: in between only
(R, C) and (R, B) numbers are kept. x is computed from the logits by subtractions alone, so that it has the same bits in
all kernels, and "is the largest" the same answer. No atomic operations: every sum has a fixed order.

For r = 196, b = 128, c = 1000 and bfloat16, four readings of the logits and one writing move 0.25 GB, and all else 0.07
(`benchmarks/closed_form_cost.py`; `closed_form` moves 7.2). The compiled code has about 300 instructions for each
logit, of which 9 are exponentials: arithmetic, not memory, takes most of the time (docs/closed_form.md).

Shape suffixes: K nodes, R positions, B batch (padded), C classes of a tile, T tiles, Q nodes of the
integral over s, as many as a power of two.
"""

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..functional.loss import negligible
from . import triton_draw
from .closed_form_kernel import Found, Given, Nodes
from .triton_launch import WIDEST_TILE, Tile, width

_INTERPRETED = tl.constexpr(triton_draw.INTERPRETED)
_LOG2_E = tl.constexpr(math.log2(math.e))
_LN_2 = tl.constexpr(math.log(2))
# The logarithm of a probability of 0, finite so that 0 times it is 0.
_NEVER = tl.constexpr(-1e30)
# `functional.closed_form.nearly_nothing(torch.float32)`
_NEARLY_NOTHING = tl.constexpr(torch.finfo(torch.float32).eps ** 2)
_NEGLIGIBLE = tl.constexpr(negligible(torch.float32))

_WIDEST = tl.constexpr(WIDEST_TILE)

# Rows of `Given.examples`, before t at the nodes.
_PI, _PI_RHO, _SPREAD, _OWN, _OF_MEAN, _OF_BETA, _T = (tl.constexpr(row) for row in range(7))
# Rows of `Found.columns`, before the spread at the nodes.
_MU, _BETA, _V, _HIGHEST, _TIES, _SPREADS = (tl.constexpr(row) for row in range(6))
# Rows of the slopes.
_D_MU, _D_BETA, _D_V, _D_TOP = (tl.constexpr(row) for row in range(4))


@triton.jit
def _tile(tiles, BB: tl.constexpr, BC: tl.constexpr):
    """Position, examples and classes of this program."""
    tile = tl.program_id(0) % tiles
    return tl.program_id(0) // tiles, tl.arange(0, BB), tile * BC + tl.arange(0, BC)


@triton.jit
def _places(position, examples_B, classes_C, stride_r, stride_b, ALIGN: tl.constexpr):
    """Where the logits of this program are. Strides, and the number of classes, come divided by ALIGN, so that the
    compiler sees what they are multiples of: without that, loads are of single numbers."""
    rows_B = position.to(tl.int64) * (stride_r.to(tl.int64) * ALIGN)
    rows_B += examples_B.to(tl.int64) * (stride_b.to(tl.int64) * ALIGN)
    return rows_B[:, None] + classes_C[None, :]


@triton.jit
def _inside(examples_B, classes_C, b, c):
    return (examples_B < b)[:, None] & (classes_C < c)[None, :]


@triton.jit
def _targets(targets_ptr, examples_B, classes_C, b, c, SOFT: tl.constexpr):
    """y, or where it is 1."""
    if SOFT:
        places_BC = (examples_B.to(tl.int64) * c)[:, None] + classes_C[None, :]
        return tl.load(targets_ptr + places_BC, mask=_inside(examples_B, classes_C, b, c), other=0.0)
    else:
        index_B = tl.load(targets_ptr + examples_B, mask=examples_B < b, other=-1).to(tl.int32)
        return index_B[:, None] == classes_C[None, :]


@triton.jit
def _weighted(y_BC, weight_B, SOFT: tl.constexpr):
    if SOFT:
        return weight_B[:, None] * y_BC
    else:
        return tl.where(y_BC, weight_B[:, None], 0.0)


@triton.jit
def _of_examples(ptr, position, rows, row, examples_B, b):
    """(B,) of (R, rows, b); 0 for what is padded."""
    return tl.load(ptr + (position.to(tl.int64) * rows + row) * b + examples_B, mask=examples_B < b, other=0.0)


@triton.jit
def _lse(lse_ptr, position, K, k, examples_B, b):
    """For what is padded, such that its softmax is 0: with 0 in its place that could be infinite."""
    lse_B = _of_examples(lse_ptr, position, K, k, examples_B, b)
    return tl.where(examples_B < b, lse_B, -_NEVER)


@triton.jit
def _of_classes(ptr, position, rows: tl.constexpr, row: tl.constexpr, classes_C, width):
    """Where the (C,) of a (R, rows, width) are."""
    return ptr + (position.to(tl.int64) * rows + row) * width + classes_C


@triton.jit
def _width(c):
    """Of rows of classes: whole tiles, whatever their size."""
    return (c + _WIDEST - 1) // _WIDEST * _WIDEST


@triton.jit
def _mass(mass_ptr, examples_B, b, SOFT: tl.constexpr):
    if SOFT:
        return tl.load(mass_ptr + examples_B, mask=examples_B < b, other=0.0)
    else:
        return tl.where(examples_B < b, 1.0, 0.0)


@triton.jit
def _node(given_ptr, scalars_ptr, position, examples_B, b, k, K: tl.constexpr):
    """u, what multiplies pi in a, and t of the examples."""
    t_B = _of_examples(given_ptr, position, _T + K, _T + k, examples_B, b)
    scalars_ptr += position * (2 * K + 1)
    return tl.load(scalars_ptr + k), tl.load(scalars_ptr + K + k), t_B


@triton.jit
def _excess(
    logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
    b, c, width, stride_r, stride_b, K: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """x, and what else all kernels after the mean need: pi, and in units of log2: log p and beta."""
    places_BC = _places(position, examples_B, classes_C, stride_r, stride_b, ALIGN)
    pi_B = _of_examples(given_ptr, position, _T + K, _PI, examples_B, b)
    attended_BC = (pi_B > 0.0)[:, None] & (classes_C < c)[None, :]
    logits_BC = tl.load(logits_ptr + places_BC, mask=attended_BC, other=0.0).to(tl.float32)
    q_B = _of_examples(q_ptr, position, 1, 0, examples_B, b)
    mu_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _MU, classes_C, width))
    beta_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _BETA, classes_C, width))
    x_BC = tl.where((pi_B > 0.0)[:, None], logits_BC - mu_C[None, :] - q_B[:, None], 0.0)
    log_p_C = tl.where(classes_C < c, mu_C - tl.load(mean_lse_ptr + position), _NEVER)
    return x_BC, pi_B, log_p_C * _LOG2_E, beta_C * _LOG2_E


@triton.jit
def _quotient(x, y):
    """By the device's special function unit: to 2 units in the last place, in a fifth of the instructions."""
    if _INTERPRETED:
        return x / y
    else:
        return libdevice.fast_dividef(x, y)


@triton.jit
def _z(x_BC, log_p_C, beta_C, spread_C, t_B, u):
    """Mixed logits; but for x, all in units of log2."""
    raised_BC = (1.0 - t_B)[:, None] * spread_C[None, :] - (u * beta_C)[None, :]
    return x_BC * (t_B * _LOG2_E)[:, None] + log_p_C[None, :] + (1.0 - t_B)[:, None] * raised_BC


@triton.jit
def _expm1(x):
    """tl.exp(x) - 1 loses what is small."""
    series = x * (1.0 + x / 2 * (1.0 + x / 3 * (1.0 + x / 4 * (1.0 + x / 5 * (1.0 + x / 6)))))
    return tl.where(tl.abs(x) < 0.3, series, tl.exp(x) - 1.0)


@triton.jit
def _log1p(x):
    """The same of tl.log(1 + x), x >= 0: the series of the inverse hyperbolic tangent."""
    t = x / (2.0 + x)
    t2 = t * t
    series = 2.0 * t * (1.0 + t2 * (1 / 3 + t2 * (1 / 5 + t2 * (1 / 7 + t2 * (1 / 9 + t2 / 11)))))
    return tl.where(x < 1.0, series, tl.log(1.0 + x))


@triton.jit(do_not_specialize=["b", "A", "stride_b", "stride_r"])
def _attend(
    attention_ptr, weight_ptr, nodes_ptr, given_ptr, scalars_ptr, spread_weight, b, A, stride_b, stride_r,
    K: tl.constexpr, Q: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """`functional.closed_form.shares` of a position, and what the other kernels make of it."""
    position, examples_B = tl.program_id(0), tl.arange(0, BB)
    places_B = examples_B.to(tl.int64) * stride_b + position.to(tl.int64) * stride_r
    a_B = tl.load(attention_ptr + places_B, mask=examples_B < b, other=0.0)
    a_B = tl.where(tl.sum(a_B, 0) >= _NEGLIGIBLE, a_B, tl.where(examples_B < b, 1.0, 0.0))
    pi_B = a_B / tl.sum(a_B, 0)
    e = tl.sum(pi_B * pi_B, 0)

    alphas_ptr = nodes_ptr + 2 * K
    nodes_Q = alphas_ptr + 2 * A + tl.arange(0, Q)
    log_y_Q, measure_Q = tl.load(nodes_Q), tl.load(nodes_Q + Q)
    kappa_B = tl.zeros((BB,), tl.float32)
    for index in range(A):
        alpha = tl.load(alphas_ptr + index)
        power, density = e / (alpha + e), tl.load(alphas_ptr + A + index) / (alpha + e)
        log_QB = _log1p((_expm1(-log_y_Q * power) / e)[:, None] * pi_B[None, :])
        exponent_Q = -alpha * tl.sum(log_QB, 1) - (power + 1.0) * log_y_Q
        kappa_B += tl.sum((density * measure_Q)[:, None] * tl.exp(exponent_Q[:, None] - 2.0 * log_QB), 0)

    first, cross, square = 0.0, 0.0, 0.0
    for k in range(K):
        u, weight = -_expm1(-tl.load(nodes_ptr + k) * e), tl.load(nodes_ptr + K + k)
        first += weight * u
        cross += weight * u * (1.0 - u)
        square += weight * (1.0 - u) * (1.0 - u)
    rest = tl.minimum(cross / (square + _NEARLY_NOTHING), 1.0) / first
    rho_B = pi_B * kappa_B / first
    given_ptr += position.to(tl.int64) * (_T + K) * b + examples_B
    scalars_ptr += position * (2 * K + 1)
    at_mean = (1.0 - spread_weight) * tl.load(weight_ptr + position)
    own_B, of_mean_B, of_beta_B = tl.zeros((BB,), tl.float32), at_mean * pi_B, tl.zeros((BB,), tl.float32)
    for k in range(K):
        u = -_expm1(-tl.load(nodes_ptr + k) * e)
        weight = spread_weight * tl.load(weight_ptr + position) * tl.load(nodes_ptr + K + k)
        # 1 - t would have no digits left where t is near 1.
        whole_B = 1.0 - u + rho_B * u + _NEARLY_NOTHING
        t_B, rest_B = rho_B * u / whole_B, (1.0 - u + _NEARLY_NOTHING) / whole_B
        own_B += weight * pi_B * t_B
        of_mean_B += weight * pi_B * rest_B
        of_beta_B += weight * pi_B * rest_B * u
        tl.store(given_ptr + (_T + k) * b, t_B, mask=examples_B < b)
        tl.store(scalars_ptr + k, u)
        tl.store(scalars_ptr + K + k, weight)
    tl.store(scalars_ptr + 2 * K, at_mean)
    tl.store(given_ptr + _PI * b, pi_B, mask=examples_B < b)
    tl.store(given_ptr + _PI_RHO * b, pi_B * rho_B, mask=examples_B < b)
    tl.store(given_ptr + _SPREAD * b, 2.0 * rest * pi_B * pi_B * kappa_B, mask=examples_B < b)
    tl.store(given_ptr + _OWN * b, own_B, mask=examples_B < b)
    tl.store(given_ptr + _OF_MEAN * b, of_mean_B, mask=examples_B < b)
    tl.store(given_ptr + _OF_BETA * b, of_beta_B, mask=examples_B < b)


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b"])
def _mean(
    logits_ptr, given_ptr, columns_ptr, lse_ptr, q_ptr, b, c, tiles, stride_r, stride_b,
    K: tl.constexpr, ALIGN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, examples_B, classes_C = _tile(tiles, BB, BC)
    c *= ALIGN
    places_BC = _places(position, examples_B, classes_C, stride_r, stride_b, ALIGN)
    pi_B = _of_examples(given_ptr, position, _T + K, _PI, examples_B, b)
    attended_BC = (pi_B > 0.0)[:, None] & (classes_C < c)[None, :]
    logits_BC = tl.load(logits_ptr + places_BC, mask=attended_BC, other=0.0).to(tl.float32)
    pi_rho_B = _of_examples(given_ptr, position, _T + K, _PI_RHO, examples_B, b)
    mu_C = tl.sum(pi_B[:, None] * logits_BC, 0)
    d_BC = tl.where((pi_B > 0.0)[:, None], logits_BC - mu_C[None, :], 0.0)
    beta_C = tl.sum(pi_rho_B[:, None] * d_BC, 0)
    tl.store(_of_classes(columns_ptr, position, _SPREADS + K, _MU, classes_C, _width(c)), mu_C)
    tl.store(_of_classes(columns_ptr, position, _SPREADS + K, _BETA, classes_C, _width(c)), beta_C)
    present_C = classes_C < c
    top = tl.max(tl.where(present_C, mu_C, -float("inf")), 0)
    exp_C = tl.where(present_C, tl.exp(mu_C - top), 0.0)
    total = tl.sum(exp_C, 0)
    place = tl.program_id(0).to(tl.int64)
    tl.store(lse_ptr + place, top + tl.log(total))
    tl.store(q_ptr + place * b + examples_B, tl.sum(d_BC * (exp_C / total)[None, :], 1), mask=examples_B < b)


@triton.jit(do_not_specialize=["b", "tiles"])
def _mean_of_tiles(
    part_lse_ptr, part_q_ptr, lse_ptr, q_ptr, b, tiles, BB: tl.constexpr, BT: tl.constexpr
):  # fmt: skip
    """logsumexp(mu) of a position, and q, the mean of d over p."""
    position, examples_B = tl.program_id(0), tl.arange(0, BB)
    part_lse_ptr += position.to(tl.int64) * tiles
    part_q_ptr += position.to(tl.int64) * tiles * b
    top, total, q_B = -float("inf"), 0.0, tl.zeros((BB,), tl.float32)
    for first in range(0, tiles, BT):
        tiles_T = first + tl.arange(0, BT)
        lse_T = tl.load(part_lse_ptr + tiles_T, mask=tiles_T < tiles, other=-float("inf"))
        inside_TB = (tiles_T < tiles)[:, None] & (examples_B < b)[None, :]
        q_TB = tl.load(part_q_ptr + tiles_T[:, None] * b + examples_B[None, :], mask=inside_TB, other=0.0)
        higher = tl.maximum(top, tl.max(lse_T, 0))
        share_T, before = tl.exp(lse_T - higher), tl.exp(top - higher)
        total = total * before + tl.sum(share_T, 0)
        q_B = q_B * before + tl.sum(share_T[:, None] * q_TB, 0)
        top = higher
    tl.store(lse_ptr + position, top + tl.log(total))
    tl.store(q_ptr + position * b + examples_B, q_B / total, mask=examples_B < b)


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b"])
def _nodes(
    logits_ptr, targets_ptr, given_ptr, scalars_ptr, mean_lse_ptr, q_ptr, columns_ptr, lse_ptr, loss_ptr,
    b, c, tiles, stride_r, stride_b,
    K: tl.constexpr, SOFT: tl.constexpr, ALIGN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, examples_B, classes_C = _tile(tiles, BB, BC)
    c *= ALIGN
    width = _width(c)
    x_BC, _pi_B, log_p_C, beta_C = _excess(
        logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
        b, c, width, stride_r, stride_b, K, ALIGN,
    )  # fmt: skip
    spread_B = _of_examples(given_ptr, position, _T + K, _SPREAD, examples_B, b)
    v_C = 0.5 * tl.sum(spread_B[:, None] * (x_BC * x_BC), 0)
    highest_C = tl.max(x_BC, 0)
    ties_C = tl.sum(tl.where(x_BC == highest_C[None, :], 1.0, 0.0), 0)
    tl.store(_of_classes(columns_ptr, position, _SPREADS + K, _V, classes_C, width), v_C)
    tl.store(_of_classes(columns_ptr, position, _SPREADS + K, _HIGHEST, classes_C, width), highest_C)
    tl.store(_of_classes(columns_ptr, position, _SPREADS + K, _TIES, classes_C, width), ties_C)

    top_C = tl.maximum(highest_C, 0.0) + _NEARLY_NOTHING
    place = tl.program_id(0).to(tl.int64)
    for k in range(K):
        u, _, t_B = _node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        spread_C = _quotient(0.5 * _LOG2_E * v_C * top_C, top_C + (1.0 - u) * v_C)
        tl.store(_of_classes(columns_ptr, position, _SPREADS + K, _SPREADS + k, classes_C, width), spread_C)
        z_BC = _z(x_BC, log_p_C, beta_C, spread_C, t_B, u)
        top_B = tl.max(z_BC, 1)
        lse_B = top_B + tl.log2(tl.sum(tl.exp2(z_BC - top_B[:, None]), 1))
        tl.store(lse_ptr + (place * K + k) * b + examples_B, lse_B, mask=examples_B < b)
    if SOFT:
        own_B = _of_examples(given_ptr, position, _T + K, _OWN, examples_B, b)
        of_mean_B = own_B + _of_examples(given_ptr, position, _T + K, _OF_MEAN, examples_B, b)
        of_beta_B = _of_examples(given_ptr, position, _T + K, _OF_BETA, examples_B, b)
        fit_BC = of_beta_B[:, None] * beta_C[None, :] - of_mean_B[:, None] * log_p_C[None, :]
        fit_BC = fit_BC * _LN_2 - own_B[:, None] * x_BC
        y_BC = _targets(targets_ptr, examples_B, classes_C, b, c, SOFT)
        tl.store(loss_ptr + place, tl.sum(tl.sum(y_BC * fit_BC, 1), 0))


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b"])
def _lse_of_tiles(
    logits_ptr, targets_ptr, given_ptr, scalars_ptr, mass_ptr, mean_lse_ptr, q_ptr, columns_ptr,
    part_lse_ptr, part_loss_ptr, lse_ptr, loss_ptr, b, c, tiles, stride_r, stride_b,
    K: tl.constexpr, SOFT: tl.constexpr, BB: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """log2-sum-exp2 of z of every example at every node, and the loss of a position."""
    position, examples_B, width = tl.program_id(0), tl.arange(0, BB), _width(c)
    pi_B = _of_examples(given_ptr, position, _T + K, _PI, examples_B, b)
    mass_B = _mass(mass_ptr, examples_B, b, SOFT)
    part_lse_ptr += position.to(tl.int64) * tiles * K * b
    loss_B = tl.zeros((BB,), tl.float32)
    for k in range(K):
        top_B, sum_B = tl.full((BB,), _NEVER, tl.float32), tl.zeros((BB,), tl.float32)
        for first in range(0, tiles, BT):
            tiles_T = first + tl.arange(0, BT)
            inside_TB = (tiles_T < tiles)[:, None] & (examples_B < b)[None, :]
            parts_TB = (tiles_T[:, None] * K + k) * b + examples_B[None, :]
            lse_TB = tl.load(part_lse_ptr + parts_TB, mask=inside_TB, other=_NEVER)
            higher_B = tl.maximum(top_B, tl.max(lse_TB, 0))
            sum_B = sum_B * tl.exp2(top_B - higher_B) + tl.sum(tl.exp2(lse_TB - higher_B[None, :]), 0)
            top_B = higher_B
        lse_B = top_B + tl.log2(sum_B)
        tl.store(lse_ptr + (position.to(tl.int64) * K + k) * b + examples_B, lse_B, mask=examples_B < b)
        _, weight, _ = _node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        loss_B += weight * pi_B * mass_B * lse_B * _LN_2
    loss = 0.0
    if SOFT:
        for first in range(0, tiles, BT):
            tiles_T = first + tl.arange(0, BT)
            parts_T = position.to(tl.int64) * tiles + tiles_T
            loss += tl.sum(tl.load(part_loss_ptr + parts_T, mask=tiles_T < tiles, other=0.0), 0)
    else:
        index_B = tl.load(targets_ptr + examples_B, mask=examples_B < b, other=0).to(tl.int32)
        # A class that is not there makes the loss NaN; a check would stall the device.
        known_B = (index_B >= 0) & (index_B < c)
        rows_B = position.to(tl.int64) * stride_r + examples_B.to(tl.int64) * stride_b
        x_B = tl.load(logits_ptr + rows_B + index_B, mask=known_B & (pi_B > 0.0), other=0.0).to(tl.float32)
        mu_ptr = _of_classes(columns_ptr, position, _SPREADS + K, _MU, index_B, width)
        mu_B = tl.load(mu_ptr, mask=known_B, other=float("nan"))
        beta_ptr = _of_classes(columns_ptr, position, _SPREADS + K, _BETA, index_B, width)
        beta_B = tl.load(beta_ptr, mask=known_B, other=0.0)
        x_B -= mu_B + _of_examples(q_ptr, position, 1, 0, examples_B, b)
        own_B = _of_examples(given_ptr, position, _T + K, _OWN, examples_B, b)
        of_mean_B = own_B + _of_examples(given_ptr, position, _T + K, _OF_MEAN, examples_B, b)
        of_beta_B = _of_examples(given_ptr, position, _T + K, _OF_BETA, examples_B, b)
        loss_B += of_beta_B * beta_B - own_B * x_B - of_mean_B * (mu_B - tl.load(mean_lse_ptr + position))
    tl.store(loss_ptr + position, loss + tl.sum(loss_B, 0))


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b"])
def _slopes(
    logits_ptr, targets_ptr, given_ptr, scalars_ptr, mass_ptr, mean_lse_ptr, q_ptr, columns_ptr, lse_ptr,
    slopes_ptr, dq_ptr, b, c, tiles, stride_r, stride_b,
    K: tl.constexpr, SOFT: tl.constexpr, ALIGN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, examples_B, classes_C = _tile(tiles, BB, BC)
    c *= ALIGN
    width = _width(c)
    x_BC, pi_B, log_p_C, beta_C = _excess(
        logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
        b, c, width, stride_r, stride_b, K, ALIGN,
    )  # fmt: skip
    mass_B = _mass(mass_ptr, examples_B, b, SOFT)
    v_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _V, classes_C, width))
    highest_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _HIGHEST, classes_C, width))
    top_C = tl.maximum(highest_C, 0.0) + _NEARLY_NOTHING

    mass_B *= pi_B
    dmu_C = tl.sum(tl.load(scalars_ptr + position * (2 * K + 1) + 2 * K) * mass_B, 0) * tl.exp2(log_p_C)
    dbeta_C, dv_C, dtop_C = tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32)
    for k in range(K):
        u, weight, t_B = _node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        spread_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _SPREADS + k, classes_C, width))
        z_BC = _z(x_BC, log_p_C, beta_C, spread_C, t_B, u)
        lse_B = _lse(lse_ptr, position, K, k, examples_B, b)
        pushed_BC = tl.exp2(z_BC - lse_B[:, None]) * (weight * mass_B * (1.0 - t_B))[:, None]
        to_mu_C = tl.sum(pushed_BC, 0)
        inverse_C = _quotient(1.0, top_C + (1.0 - u) * v_C)
        to_spread_C = 0.5 * tl.sum(pushed_BC * (1.0 - t_B)[:, None], 0) * inverse_C * inverse_C
        dmu_C += to_mu_C
        dbeta_C -= u * to_mu_C
        dv_C += to_spread_C
        dtop_C += (1.0 - u) * to_spread_C
    y_BC = _targets(targets_ptr, examples_B, classes_C, b, c, SOFT)
    of_mean_B = _of_examples(given_ptr, position, _T + K, _OF_MEAN, examples_B, b)
    of_beta_B = _of_examples(given_ptr, position, _T + K, _OF_BETA, examples_B, b)
    pi_rho_B = _of_examples(given_ptr, position, _T + K, _PI_RHO, examples_B, b)
    dbeta_C += tl.sum(_weighted(y_BC, of_beta_B, SOFT), 0)
    dmu_C -= tl.sum(pi_rho_B, 0) * dbeta_C
    dv_C *= top_C * top_C
    # At 0 only rounding lets an example without attention be the largest, since attended ones average to 0.
    ties_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _TIES, classes_C, width))
    dtop_C = tl.where(highest_C > 0.0, dtop_C * v_C * v_C / ties_C, 0.0)
    spread_B = _of_examples(given_ptr, position, _T + K, _SPREAD, examples_B, b)
    e_BC = spread_B[:, None] * x_BC * dv_C[None, :] + tl.where(x_BC == highest_C[None, :], dtop_C[None, :], 0.0)
    dmu_C -= tl.sum(e_BC + _weighted(y_BC, of_mean_B, SOFT), 0)
    place = tl.program_id(0).to(tl.int64)
    tl.store(dq_ptr + place * b + examples_B, -tl.sum(e_BC, 1), mask=examples_B < b)
    tl.store(_of_classes(slopes_ptr, position, 4, _D_MU, classes_C, width), dmu_C)
    tl.store(_of_classes(slopes_ptr, position, 4, _D_BETA, classes_C, width), dbeta_C)
    tl.store(_of_classes(slopes_ptr, position, 4, _D_V, classes_C, width), dv_C)
    tl.store(_of_classes(slopes_ptr, position, 4, _D_TOP, classes_C, width), dtop_C)


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b", "grad_stride_r", "grad_stride_b"])
def _gradient(
    logits_ptr, targets_ptr, given_ptr, scalars_ptr, mass_ptr, mean_lse_ptr, q_ptr, columns_ptr, lse_ptr,
    slopes_ptr, dq_ptr, scale_ptr, grad_ptr, b, c, tiles, stride_r, stride_b, grad_stride_r, grad_stride_b,
    K: tl.constexpr, SOFT: tl.constexpr, ALIGN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, examples_B, classes_C = _tile(tiles, BB, BC)
    c *= ALIGN
    width = _width(c)
    x_BC, pi_B, log_p_C, beta_C = _excess(
        logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
        b, c, width, stride_r, stride_b, K, ALIGN,
    )  # fmt: skip
    mass_B = _mass(mass_ptr, examples_B, b, SOFT)
    highest_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _HIGHEST, classes_C, width))
    p_C = tl.exp2(log_p_C)

    spread_B = _of_examples(given_ptr, position, _T + K, _SPREAD, examples_B, b)
    dq_B = _of_examples(dq_ptr, position, 1, 0, examples_B, b)
    dmu_C = tl.load(_of_classes(slopes_ptr, position, 4, _D_MU, classes_C, width))
    dbeta_C = tl.load(_of_classes(slopes_ptr, position, 4, _D_BETA, classes_C, width))
    dv_C = tl.load(_of_classes(slopes_ptr, position, 4, _D_V, classes_C, width))
    dtop_C = tl.load(_of_classes(slopes_ptr, position, 4, _D_TOP, classes_C, width))
    # Through p only this: p . x_i is 0, so nothing is to be centred.
    dmu_C += p_C * (tl.sum(dq_B[:, None] * x_BC, 0) - tl.sum(dq_B, 0))
    grad_BC = tl.where(x_BC == highest_C[None, :], dtop_C[None, :], 0.0)
    grad_BC += spread_B[:, None] * x_BC * dv_C[None, :]
    grad_BC += dq_B[:, None] * p_C[None, :]
    grad_BC += pi_B[:, None] * dmu_C[None, :]
    grad_BC += _of_examples(given_ptr, position, _T + K, _PI_RHO, examples_B, b)[:, None] * dbeta_C[None, :]
    mass_B *= pi_B
    for k in range(K):
        u, weight, t_B = _node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        spread_C = tl.load(_of_classes(columns_ptr, position, _SPREADS + K, _SPREADS + k, classes_C, width))
        z_BC = _z(x_BC, log_p_C, beta_C, spread_C, t_B, u)
        lse_B = _lse(lse_ptr, position, K, k, examples_B, b)
        grad_BC += tl.exp2(z_BC - lse_B[:, None]) * (weight * mass_B * t_B)[:, None]
    own_B = _of_examples(given_ptr, position, _T + K, _OWN, examples_B, b)
    grad_BC -= _weighted(_targets(targets_ptr, examples_B, classes_C, b, c, SOFT), own_B, SOFT)
    grad_BC *= tl.load(scale_ptr)
    places_BC = _places(position, examples_B, classes_C, grad_stride_r, grad_stride_b, ALIGN)
    tl.store(grad_ptr + places_BC, grad_BC, mask=_inside(examples_B, classes_C, b, c))


def attend(a_BR: Tensor, weight_R: Tensor, nodes: Nodes, spread_weight: float) -> Given:
    """Attention in float32, of any strides; `weight_R`: what the loss of each position counts."""
    B, R = a_BR.shape
    examples, scalars = a_BR.new_empty(R, 6 + nodes.u, B), a_BR.new_empty(R, 2 * nodes.u + 1)
    with torch.cuda.device_of(a_BR):
        _attend[(R,)](
            a_BR, weight_R, nodes.numbers, examples, scalars, spread_weight, B, nodes.alpha, *a_BR.stride(),
            K=nodes.u, Q=nodes.s, BB=triton.next_power_of_2(B),
        )  # fmt: skip
    return Given(examples, scalars)


def forward(logits_RBC: Tensor, targets: Tensor, given: Given, tile: Tile) -> tuple[Tensor, Found]:
    """The loss of every position (R,), of logits in float32, bfloat16 or float16 whose classes are side by side."""
    sizes = _Sizes(logits_RBC, targets, given, tile)
    R, B, C = logits_RBC.shape
    T, K = sizes.tiles, sizes.meta["K"]
    empty = functools.partial(torch.empty, device=logits_RBC.device, dtype=torch.float32)
    columns, mean_lse, q, lse = empty(R, 5 + K, width(C)), empty(R), empty(R, B), empty(R, K, B)
    part_lse, part_q, part_z, part_loss, losses = empty(R, T), empty(R, T, B), empty(R, T, K, B), empty(R, T), empty(R)
    over_tiles = {"BB": tile.BB, "BT": min(16, triton.next_power_of_2(T))}
    with torch.cuda.device_of(logits_RBC):
        _mean[sizes.grid](
            logits_RBC, given.examples, columns, part_lse, part_q, *sizes.numbers,
            **{name: value for name, value in sizes.meta.items() if name != "SOFT"},
        )  # fmt: skip
        _mean_of_tiles[(R,)](part_lse, part_q, mean_lse, q, B, T, **over_tiles)
        _nodes[sizes.grid](
            logits_RBC, sizes.targets, *given, mean_lse, q, columns, part_z, part_loss, *sizes.numbers, **sizes.meta
        )
        _lse_of_tiles[(R,)](
            logits_RBC, sizes.targets, *given, sizes.mass, mean_lse, q, columns, part_z, part_loss, lse, losses,
            B, C, T, *logits_RBC.stride()[:2], K=K, SOFT=sizes.meta["SOFT"], **over_tiles,
        )  # fmt: skip
    return losses, Found(columns, mean_lse, q, lse)


def backward(scale: Tensor, logits_RBC: Tensor, targets: Tensor, given: Given, found: Found, tile: Tile) -> Tensor:
    """The gradient in the logits, like these, times `scale`, a float32 scalar."""
    R, B, C = logits_RBC.shape
    grad = torch.empty_like(logits_RBC)
    sizes = _Sizes(logits_RBC, targets, given, tile, grad)
    empty = functools.partial(torch.empty, device=logits_RBC.device, dtype=torch.float32)
    slopes, part_dq = empty(R, 4, width(C)), empty(R, sizes.tiles, B)
    columns, mean_lse, q, lse = found
    known = sizes.targets, *given, sizes.mass, mean_lse, q, columns, lse
    with torch.cuda.device_of(logits_RBC):
        _slopes[sizes.grid](logits_RBC, *known, slopes, part_dq, *sizes.numbers, **sizes.meta)
        strides = (stride // sizes.meta["ALIGN"] for stride in grad.stride()[:2])
        _gradient[sizes.grid](
            logits_RBC, *known, slopes, part_dq.sum(1), scale, grad, *sizes.numbers, *strides, **sizes.meta
        )
    return grad


class _Sizes:
    """What all kernels over tiles are launched with."""

    def __init__(self, logits: Tensor, targets: Tensor, given: Given, tile: Tile, *written: Tensor) -> None:
        R, B, C = logits.shape
        self.tiles = triton.cdiv(C, tile.BC)
        self.grid = (R * self.tiles,)
        # With loads of more numbers at once, what belongs to classes would take more registers than there are.
        align = 4
        while any(
            each.data_ptr() % (align * each.element_size()) or any(size % align for size in (C, *each.stride()[:2]))
            for each in (logits, *written)
        ):
            align //= 2
        self.numbers = B, C // align, self.tiles, logits.stride(0) // align, logits.stride(1) // align
        soft = targets.is_floating_point()
        self.targets = (targets.to(torch.float32) if soft else targets).contiguous()
        self.mass = self.targets.sum(1) if soft else given.scalars  # which class indices leave unread
        self.meta = {
            "K": (given.scalars.shape[1] - 1) // 2, "SOFT": soft, "ALIGN": align,
            "BB": tile.BB, "BC": tile.BC, "num_warps": tile.warps,
        }  # fmt: skip
