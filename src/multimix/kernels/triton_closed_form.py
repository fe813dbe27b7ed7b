# mypy: disable-error-code="no-untyped-def, import-untyped"
"""The limit n -> infinity by Triton; see `closed_form` for the equations by hand.

A program holds a tile of one position: all examples (padded to a power of two) and BC classes. So it can sum over
examples; what is summed over classes it writes as its part, and a small program for each position adds the parts up.
Four kernels read the logits once each, and only the last writes as much; `triton_shares` goes before them, with what
follows from the attention alone:

    _mean      mu and beta; parts of p . (l_i - mu), together with log-sum-exps of mu, which weigh them
    _nodes     v and the largest excess; parts of the log-sum-exp of z at every node; what soft targets add to the loss
    _slopes    the slopes in beta, v and the largest excess, and in mu but for what comes through p; parts of dq
    _gradient  what comes through p, and the gradient, scaled and in the precision of the logits

The first two are the forward pass, here; the others the backward pass (`triton_closed_form_gradient`), where the logits
are at hand anyway: in between only (R, C) and (R, B) numbers are kept. x is computed from the logits by subtractions
alone, so that it has the same bits in all kernels, and "is the largest" the same answer. No atomic operations: every
sum has a fixed order.

For r = 196, b = 128, c = 1000 and bfloat16, four readings of the logits and one writing move 0.25 GB, and all else 0.07
(`benchmarks/closed_form_cost.py`; `closed_form` moves 7.8). The compiled code has about 300 instructions for each
logit, of which 9 are exponentials: arithmetic, not memory, takes most of the time (docs/closed_form.md).

Shape suffixes: K nodes, R positions, B batch (padded), C classes of a tile, T tiles.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .closed_form_kernel import Found, Given
from .triton_launch import Tile, width
from .triton_tiles import (
    BETA,
    HIGHEST,
    LN_2,
    LOG2_E,
    MU,
    NEARLY_NOTHING,
    NEVER,
    OF_BETA,
    OF_MEAN,
    OWN,
    PI,
    PI_RHO,
    SPREAD,
    SPREADS,
    TIES,
    TS,
    Sizes,
    V,
    excess,
    mass_of,
    mixed,
    node,
    of_classes,
    of_examples,
    padded,
    places,
    quotient,
    targets_of,
    this_tile,
)


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b"])
def _mean(
    logits_ptr, given_ptr, columns_ptr, lse_ptr, q_ptr, b, c, tiles, stride_r, stride_b,
    K: tl.constexpr, ALIGN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, examples_B, classes_C = this_tile(tiles, BB, BC)
    c *= ALIGN
    places_BC = places(position, examples_B, classes_C, stride_r, stride_b, ALIGN)
    pi_B = of_examples(given_ptr, position, TS + K, PI, examples_B, b)
    attended_BC = (pi_B > 0.0)[:, None] & (classes_C < c)[None, :]
    logits_BC = tl.load(logits_ptr + places_BC, mask=attended_BC, other=0.0).to(tl.float32)
    pi_rho_B = of_examples(given_ptr, position, TS + K, PI_RHO, examples_B, b)
    mu_C = tl.sum(pi_B[:, None] * logits_BC, 0)
    d_BC = tl.where((pi_B > 0.0)[:, None], logits_BC - mu_C[None, :], 0.0)
    beta_C = tl.sum(pi_rho_B[:, None] * d_BC, 0)
    tl.store(of_classes(columns_ptr, position, SPREADS + K, MU, classes_C, padded(c)), mu_C)
    tl.store(of_classes(columns_ptr, position, SPREADS + K, BETA, classes_C, padded(c)), beta_C)
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
    position, examples_B, classes_C = this_tile(tiles, BB, BC)
    c *= ALIGN
    width = padded(c)
    x_BC, _pi_B, log_p_C, beta_C = excess(
        logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
        b, c, width, stride_r, stride_b, K, ALIGN,
    )  # fmt: skip
    spread_B = of_examples(given_ptr, position, TS + K, SPREAD, examples_B, b)
    v_C = 0.5 * tl.sum(spread_B[:, None] * (x_BC * x_BC), 0)
    highest_C = tl.max(x_BC, 0)
    ties_C = tl.sum(tl.where(x_BC == highest_C[None, :], 1.0, 0.0), 0)
    tl.store(of_classes(columns_ptr, position, SPREADS + K, V, classes_C, width), v_C)
    tl.store(of_classes(columns_ptr, position, SPREADS + K, HIGHEST, classes_C, width), highest_C)
    tl.store(of_classes(columns_ptr, position, SPREADS + K, TIES, classes_C, width), ties_C)

    top_C = tl.maximum(highest_C, 0.0) + NEARLY_NOTHING
    place = tl.program_id(0).to(tl.int64)
    for k in range(K):
        u, _, t_B = node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        spread_C = quotient(0.5 * LOG2_E * v_C * top_C, top_C + (1.0 - u) * v_C)
        tl.store(of_classes(columns_ptr, position, SPREADS + K, SPREADS + k, classes_C, width), spread_C)
        z_BC = mixed(x_BC, log_p_C, beta_C, spread_C, t_B, u)
        top_B = tl.max(z_BC, 1)
        lse_B = top_B + tl.log2(tl.sum(tl.exp2(z_BC - top_B[:, None]), 1))
        tl.store(lse_ptr + (place * K + k) * b + examples_B, lse_B, mask=examples_B < b)
    if SOFT:
        own_B = of_examples(given_ptr, position, TS + K, OWN, examples_B, b)
        of_mean_B = own_B + of_examples(given_ptr, position, TS + K, OF_MEAN, examples_B, b)
        of_beta_B = of_examples(given_ptr, position, TS + K, OF_BETA, examples_B, b)
        fit_BC = of_beta_B[:, None] * beta_C[None, :] - of_mean_B[:, None] * log_p_C[None, :]
        fit_BC = fit_BC * LN_2 - own_B[:, None] * x_BC
        y_BC = targets_of(targets_ptr, examples_B, classes_C, b, c, SOFT)
        tl.store(loss_ptr + place, tl.sum(tl.sum(y_BC * fit_BC, 1), 0))


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b"])
def _lse_of_tiles(
    logits_ptr, targets_ptr, given_ptr, scalars_ptr, mass_ptr, mean_lse_ptr, q_ptr, columns_ptr,
    part_lse_ptr, part_loss_ptr, lse_ptr, loss_ptr, b, c, tiles, stride_r, stride_b,
    K: tl.constexpr, SOFT: tl.constexpr, BB: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """log2-sum-exp2 of z of every example at every node, and the loss of a position."""
    position, examples_B, width = tl.program_id(0), tl.arange(0, BB), padded(c)
    pi_B = of_examples(given_ptr, position, TS + K, PI, examples_B, b)
    mass_B = mass_of(mass_ptr, examples_B, b, SOFT)
    part_lse_ptr += position.to(tl.int64) * tiles * K * b
    loss_B = tl.zeros((BB,), tl.float32)
    for k in range(K):
        top_B, sum_B = tl.full((BB,), NEVER, tl.float32), tl.zeros((BB,), tl.float32)
        for first in range(0, tiles, BT):
            tiles_T = first + tl.arange(0, BT)
            inside_TB = (tiles_T < tiles)[:, None] & (examples_B < b)[None, :]
            parts_TB = (tiles_T[:, None] * K + k) * b + examples_B[None, :]
            lse_TB = tl.load(part_lse_ptr + parts_TB, mask=inside_TB, other=NEVER)
            higher_B = tl.maximum(top_B, tl.max(lse_TB, 0))
            sum_B = sum_B * tl.exp2(top_B - higher_B) + tl.sum(tl.exp2(lse_TB - higher_B[None, :]), 0)
            top_B = higher_B
        lse_B = top_B + tl.log2(sum_B)
        tl.store(lse_ptr + (position.to(tl.int64) * K + k) * b + examples_B, lse_B, mask=examples_B < b)
        _, weight, _ = node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        loss_B += weight * pi_B * mass_B * lse_B * LN_2
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
        mu_ptr = of_classes(columns_ptr, position, SPREADS + K, MU, index_B, width)
        mu_B = tl.load(mu_ptr, mask=known_B, other=float("nan"))
        beta_ptr = of_classes(columns_ptr, position, SPREADS + K, BETA, index_B, width)
        beta_B = tl.load(beta_ptr, mask=known_B, other=0.0)
        x_B -= mu_B + of_examples(q_ptr, position, 1, 0, examples_B, b)
        own_B = of_examples(given_ptr, position, TS + K, OWN, examples_B, b)
        of_mean_B = own_B + of_examples(given_ptr, position, TS + K, OF_MEAN, examples_B, b)
        of_beta_B = of_examples(given_ptr, position, TS + K, OF_BETA, examples_B, b)
        loss_B += of_beta_B * beta_B - own_B * x_B - of_mean_B * (mu_B - tl.load(mean_lse_ptr + position))
    tl.store(loss_ptr + position, loss + tl.sum(loss_B, 0))


def forward(logits_RBC: Tensor, targets: Tensor, given: Given, tile: Tile) -> tuple[Tensor, Found]:
    """The loss of every position (R,), of logits in float32, bfloat16 or float16 whose classes are side by side."""
    sizes = Sizes(logits_RBC, targets, given, tile)
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
