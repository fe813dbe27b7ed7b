# mypy: disable-error-code="no-untyped-def, import-untyped"
"""The sampled loss and its gradient in the logits by Triton; weights are drawn in registers, never written.

Three kernels. `_centre` subtracts from the logits their attention-weighted mean over the batch. `_accumulate` takes
blocks of BN mixtures of one position. For each it draws the weights (`triton_draw`), ROWS mixtures at a time so that
registers hold them, and adds the Gram matrix Lambda' diag(s) Lambda, through which the targets enter (see
`logits_space`). Then it goes over the classes twice, BC at a time: for the log-sum-exp of the mixed logits, as it grows
(online softmax), and for their softmax, whose product with the weights is the gradient. It adds sums up in memory that
belongs to one program alone. `_finish` adds what programs kept apart and what the targets contribute. No atomic
operations: every sum has a fixed order.

Centring is exact because weights sum to 1, z_k = mean + lam_k (L - mean): what tensor cores round is deviations only,
and what that does to their mean is added back. Logits of -1e30 and less are masked classes, as elsewhere.

Rows and classes are padded to full blocks, so that rows start at addresses that wide loads need, whatever c is.

Shape suffixes: P positions, N mixed examples (here a block), Q parts of a block, B batch (padded), C classes (padded,
here a tile), S programs of a position, T tiles of classes.
"""

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..functional.loss import MASKED
from . import triton_draw
from .triton_launch import Launch

_LOG2_E = tl.constexpr(math.log2(math.e))
_LN_2 = tl.constexpr(math.log(2))
_MASKED = tl.constexpr(MASKED)


@triton.jit
def _tf32(x):
    """Rounded to the nearest number with 10 bits: tensor cores would truncate, which biases sums."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _operand(x, PRECISION: tl.constexpr):
    """Rounded as the products take it."""
    if PRECISION == "bf16":
        return x.to(tl.bfloat16)
    elif PRECISION == "bf16 interpreted":  # the interpreter multiplies the bits of bfloat16 numbers as integers
        return x.to(tl.bfloat16).to(tl.float32)
    elif PRECISION == "tf32":
        return _tf32(x)
    else:
        return x


@triton.jit
def _product(x, y, so_far, PRECISION: tl.constexpr):
    if PRECISION == "bf16" or PRECISION == "bf16 interpreted":
        return tl.dot(x, y, so_far)
    else:
        return tl.dot(x, y, so_far, input_precision=PRECISION)


@triton.jit
def _centre(
    logits_ptr, attention_ptr, deviations_ptr, mean_ptr, b, c, width, stride_p, stride_b,
    PRECISION: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, tile = tl.program_id(0), tl.program_id(1)
    columns_B, classes_C = tl.arange(0, BB), tile * BC + tl.arange(0, BC)
    present_B = columns_B < b
    inside_BC = present_B[:, None] & (classes_C < c)[None, :]
    attention_B = tl.load(attention_ptr + position * b + columns_B, mask=present_B, other=0.0)
    logits_ptr += position.to(tl.int64) * stride_p
    pointers = logits_ptr + columns_B.to(tl.int64)[:, None] * stride_b + classes_C[None, :]
    logits_BC = tl.load(pointers, mask=inside_BC, other=0.0).to(tl.float32)
    # Masked classes stay out of the mean, which would have no digits left for the others; NaN does not.
    kept_BC = inside_BC & ((logits_BC <= _MASKED) == 0)
    share_BC = tl.where(kept_BC, attention_B[:, None], 0.0)
    total_C = tl.sum(share_BC, 0)
    share_BC /= tl.where(total_C > 0.0, total_C, 1.0)[None, :]
    mean_C = tl.sum(tl.where(kept_BC, logits_BC, 0.0) * share_BC, 0)
    some_C = tl.max(kept_BC.to(tl.int32), 0) > 0
    masked_BC = tl.where(inside_BC & some_C[None, :], _MASKED, 0.0)
    exact_BC = tl.where(kept_BC, logits_BC - mean_C[None, :], masked_BC)
    deviations_BC = _operand(exact_BC, PRECISION)
    # Rounding the deviations moves their mean, and all mixtures alike: more draws would not average that out.
    mean_C += tl.sum(tl.where(kept_BC, exact_BC - deviations_BC.to(tl.float32), 0.0) * share_BC, 0)
    mean_C = tl.where(some_C, mean_C, _MASKED)
    tl.store(mean_ptr + position * width + classes_C, tl.where(classes_C < c, mean_C, -float("inf")))
    deviations_ptr += position.to(tl.int64) * BB * width
    tl.store(deviations_ptr + columns_B[:, None] * width + classes_C[None, :], deviations_BC)


# Else other seeds and a last, smaller mini-batch would each compile the kernel again.
@triton.jit(do_not_specialize=["seed_low", "seed_high", "n", "b", "m", "positions", "splits"])
def _accumulate(
    deviations_ptr, base_ptr, mass_ptr, affinity_ptr, attention_ptr, loss_ptr, total_ptr, gram_ptr, grad_ptr,
    seed_low, seed_high, n, b, width, m, low, high, positions, splits,
    SOFT: tl.constexpr, SUBSET: tl.constexpr, WARPED: tl.constexpr, BOOSTED: tl.constexpr,
    GRADIENT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = BN // ROWS
    BJ: tl.constexpr = BC if BC < BB else BB
    tile_J = tl.arange(0, BJ)
    position, split = tl.program_id(0), tl.program_id(1)
    columns_B, tile_C, parts_Q = tl.arange(0, BB), tl.arange(0, BC), tl.arange(0, PARTS)
    present_B = columns_B < b
    place = (split * positions + position).to(tl.int64)
    gram_BJ = gram_ptr + place * BB * BB + columns_B[:, None] * BB + tile_J[None, :]
    grad_BC = grad_ptr + place * BB * width + columns_B[:, None] * width + tile_C[None, :]
    deviations_BC = deviations_ptr + position.to(tl.int64) * BB * width + columns_B[:, None] * width + tile_C[None, :]
    base_C = base_ptr + position * width + tile_C
    attention_B = tl.load(attention_ptr + position * b + columns_B, mask=present_B, other=0.0)
    affinity_B = tl.load(affinity_ptr + position * b + columns_B, mask=present_B, other=0.0)
    mass_B = tl.load(mass_ptr + columns_B, mask=present_B, other=0.0)
    loss_N = tl.zeros((BN,), tl.float32)
    fit_N = tl.zeros((ROWS,), tl.float32)
    total_N = tl.zeros((ROWS,), tl.float32)

    for start in range(split * BN, n, splits * BN):
        lam_BQN = _operand(tl.zeros((BB, PARTS, ROWS), tl.float32), PRECISION)
        s_QN = tl.zeros((PARTS, ROWS), tl.float32)
        w_QN = tl.zeros((PARTS, ROWS), tl.float32)
        for part in range(PARTS):
            rows_N = start + part * ROWS + tl.arange(0, ROWS)
            lam_BN, s_N = triton_draw.draw(
                rows_N, position, attention_B, seed_low, seed_high, b, m, low, high, SUBSET, WARPED, BOOSTED, BB, ROWS
            )
            s_N = tl.where(rows_N < n, s_N, 0.0)
            total_N += s_N
            fit_N += s_N * tl.sum(lam_BN * affinity_B[:, None], 0)
            here_Q1 = (parts_Q == part)[:, None]
            s_QN = tl.where(here_Q1, s_N[None, :], s_QN)
            if SOFT:
                w_QN = tl.where(here_Q1, (s_N * tl.sum(lam_BN * mass_B[:, None], 0))[None, :], w_QN)
            lam_BQN = tl.where(here_Q1[None, :, :], _operand(lam_BN, PRECISION)[:, None, :], lam_BQN)
        lam_BN = tl.reshape(lam_BQN, (BB, BN))
        lam_NB = tl.trans(lam_BN)
        s_N = tl.reshape(s_QN, (BN,))
        w_N = tl.reshape(w_QN, (BN,)) if SOFT else s_N

        later_B1 = (start + tl.zeros((BB, 1), tl.int32)) > split * BN
        # By tiles of columns, which one-hot columns select: a whole Gram matrix would take every register.
        for first in range(0, BB, BJ):
            so_far_BJ = tl.load(gram_BJ + first, mask=later_B1, other=0.0)
            one_hot_BJ = tl.where(columns_B[:, None] == (first + tile_J)[None, :], 1.0, 0.0)
            lam_NJ = _product(lam_NB, _operand(one_hot_BJ, PRECISION), None, PRECISION)
            scaled_NJ = _operand(lam_NJ * s_N[:, None], PRECISION)
            tl.store(gram_BJ + first, _product(lam_BN, scaled_NJ, so_far_BJ, PRECISION))

        top_N = tl.full((BN,), -float("inf"), tl.float32)
        sum_N = tl.zeros((BN,), tl.float32)
        for first in range(0, width, BC):
            tile_BC = tl.load(deviations_BC + first)
            if PRECISION == "bf16 interpreted":
                tile_BC = tile_BC.to(tl.float32)
            z_NC = _product(lam_NB, tile_BC, None, PRECISION) * _LOG2_E + tl.load(base_C + first)[None, :]
            higher_N = tl.maximum(top_N, tl.max(z_NC, 1))
            sum_N = sum_N * tl.exp2(top_N - higher_N) + tl.sum(tl.exp2(z_NC - higher_N[:, None]), 1)
            top_N = higher_N
        lse_N = top_N + tl.log2(sum_N)
        loss_N += w_N * lse_N * _LN_2
        if GRADIENT:
            for first in range(0, width, BC):
                so_far_BC = tl.load(grad_BC + first, mask=later_B1, other=0.0)
                tile_BC = tl.load(deviations_BC + first)
                if PRECISION == "bf16 interpreted":
                    tile_BC = tile_BC.to(tl.float32)
                z_NC = _product(lam_NB, tile_BC, None, PRECISION) * _LOG2_E + tl.load(base_C + first)[None, :]
                p_NC = _operand(w_N[:, None] * tl.exp2(z_NC - lse_N[:, None]), PRECISION)
                tl.store(grad_BC + first, _product(lam_BN, p_NC, so_far_BC, PRECISION))
        # Other threads of this program read next what these have written.
        tl.debug_barrier()

    tl.store(loss_ptr + place, tl.sum(loss_N, 0) - tl.sum(fit_N, 0))
    tl.store(total_ptr + place, tl.sum(total_N, 0))


@triton.jit(do_not_specialize=["b", "positions", "splits"])
def _finish(
    deviations_ptr, targets_ptr, gram_ptr, grad_ptr, loss_ptr, out_ptr, b, c, width, positions, splits,
    SOFT: tl.constexpr, GRADIENT: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Add the gradients of all programs of a position; take off the Gram matrix times the targets."""
    position, tile = tl.program_id(0), tl.program_id(1)
    columns_B, classes_C = tl.arange(0, BB), tile * BC + tl.arange(0, BC)
    gram_ptr += position.to(tl.int64) * BB * BB
    fit_BC = tl.zeros((BB, BC), tl.float32)
    for first in range(0, BB, BK):
        examples_K = first + tl.arange(0, BK)
        gram_BK = tl.load(gram_ptr + columns_B[:, None] * BB + examples_K[None, :])
        if SOFT:
            inside_KC = (examples_K < b)[:, None] & (classes_C < c)[None, :]
            y_KC = tl.load(targets_ptr + examples_K[:, None] * c + classes_C[None, :], mask=inside_KC, other=0.0)
        else:
            index_K = tl.load(targets_ptr + examples_K, mask=examples_K < b, other=-1).to(tl.int32)
            y_KC = tl.where(index_K[:, None] == classes_C[None, :], 1.0, 0.0)
        fit_BC = tl.dot(gram_BK, y_KC, fit_BC, input_precision="tf32x3")
    place_BC = position.to(tl.int64) * BB * width + columns_B[:, None] * width + classes_C[None, :]
    deviations_BC = tl.load(deviations_ptr + place_BC).to(tl.float32)
    tl.store(loss_ptr + position * tl.num_programs(1) + tile, tl.sum(tl.sum(fit_BC * deviations_BC, 1), 0))
    if GRADIENT:
        grad_BC = tl.load(grad_ptr + place_BC)
        for _ in range(1, splits):
            grad_ptr += positions.to(tl.int64) * BB * width
            grad_BC += tl.load(grad_ptr + place_BC)
        inside_BC = (columns_B < b)[:, None] & (classes_C < c)[None, :]
        out_ptr += position.to(tl.int64) * b * c
        tl.store(out_ptr + columns_B[:, None] * c + classes_C[None, :], grad_BC - fit_BC, mask=inside_BC)


def sums(
    logits_PBC: Tensor, targets: Tensor, attention_BP: Tensor | None, seed: int,
    n: int, m: int, low: float, high: float, gradient: bool, precision: str, launch: Launch,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """For every position: sum_k s_k H_k and sum_k s_k (P,), and the gradient of the former (P, B, C); float32.

    `logits_PBC` in float32, bfloat16 or float16. `precision` of the products: "bf16", "tf32", "tf32x3" or "ieee".
    """
    P, B, C = logits_PBC.shape
    BN, BB, BC, S = launch.BN, launch.BB, launch.BC, launch.splits
    T = triton.cdiv(C, BC)
    width = T * BC
    if logits_PBC.stride(2) != 1 and C > 1:
        logits_PBC = logits_PBC.contiguous()
    empty = functools.partial(torch.empty, device=logits_PBC.device, dtype=torch.float32)
    if attention_BP is None:
        attention_PB = logits_PBC.new_ones(P, B, dtype=torch.float32)
    else:
        attention_PB = attention_BP.mT.to(torch.float32).contiguous()
    soft = targets.is_floating_point()
    targets = (targets.to(torch.float32) if soft else targets).contiguous()
    deviations_PBC = empty(P, BB, width, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    mean_PC = empty(P, width)
    loss_SP, total_SP, fit_PT = empty(S, P), empty(S, P), empty(P, T)
    gram_SPBB = empty(S, P, BB, BB)
    grad_SPBC = empty((S, P, BB, width) if gradient else (1,))
    grad_PBC = empty((P, B, C) if gradient else (1,))
    if triton_draw.INTERPRETED and precision == "bf16":
        precision = "bf16 interpreted"
    with torch.cuda.device_of(logits_PBC):
        _centre[(P, T)](
            logits_PBC, attention_PB, deviations_PBC, mean_PC, B, C, width, logits_PBC.stride(0), logits_PBC.stride(1),
            PRECISION=precision, BB=BB, BC=BC,
        )  # fmt: skip
        base_PC = mean_PC - mean_PC.amax(1, keepdim=True)
        if soft:
            mass_B, affinity_PB = targets.sum(1), base_PC[:, :C] @ targets.T
        else:
            mass_B, affinity_PB = attention_PB, base_PC.index_select(1, targets.long())
        _accumulate[(P, S)](
            deviations_PBC, base_PC * math.log2(math.e), mass_B, affinity_PB, attention_PB,
            loss_SP, total_SP, gram_SPBB, grad_SPBC,
            *triton_draw.halves(seed), n, B, width, m, positions=P, splits=S, **triton_draw.concentration(low, high),
            SOFT=soft, SUBSET=m < B, GRADIENT=gradient, PRECISION=precision, BN=BN, BB=BB, BC=BC, ROWS=launch.rows,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        if S > 2:  # positions are few, and with them the programs of `_finish`
            grad_SPBC, S = grad_SPBC.sum(0, keepdim=True), 1
        _finish[(P, T)](
            deviations_PBC, targets, gram_SPBB.sum(0), grad_SPBC, fit_PT, grad_PBC, B, C, width, P, S,
            SOFT=soft, GRADIENT=gradient, BB=BB, BC=BC, BK=min(BB, 32),
        )  # fmt: skip
    return loss_SP.sum(0) - fit_PT.sum(1), total_SP.sum(0), grad_PBC if gradient else None
