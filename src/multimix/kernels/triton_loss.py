# mypy: disable-error-code="no-untyped-def, import-untyped"
"""The sampled loss and its gradient in the logits in one Triton kernel; weights are drawn in registers, never written.

A program takes blocks of BN mixtures of one position. For each it draws the weights (`triton_draw`), then goes over the
classes twice, BC at a time: once for the log-sum-exp of the mixed logits, as it grows (online softmax), and once
for the residual s (mass p - y~), whose product with the weights is the gradient. With few classes (ONE_TILE) one
pass does, and the gradient stays in registers; else it is added up in memory that belongs to this program alone. No
atomic operations: programs write partial sums, which are added in a fixed order afterwards.

The logits are centred on their attention-weighted mean over the batch, z_k = mean + lam_k (L - mean), exact because
weights sum to 1: what tensor cores round is deviations only. Any vector near the mean does, so it may be rounded.

Shape suffixes: P positions, N mixed examples (here a block), B batch (padded), C classes (here a tile), S programs of
a position.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_draw
from .triton_launch import Launch


@triton.jit
def _tf32(x):
    """Rounded to the nearest number with 10 bits: tensor cores would truncate, which biases sums."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _dot(x, y, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        return tl.dot(x.to(tl.bfloat16), y.to(tl.bfloat16))
    elif PRECISION == "bf16 interpreted":  # the interpreter multiplies the bits of bfloat16 numbers as integers
        return tl.dot(x.to(tl.bfloat16).to(tl.float32), y.to(tl.bfloat16).to(tl.float32))
    elif PRECISION == "tf32":
        return tl.dot(_tf32(x), _tf32(y), input_precision="tf32")
    else:
        return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def _deviations(logits_ptr, mean_ptr, columns_B, classes_C, b, c, stride_b):
    """Logits minus their mean (B, C), and 0 beyond the last class."""
    inside_BC = (columns_B < b)[:, None] & (classes_C < c)[None, :]
    pointers = logits_ptr + columns_B.to(tl.int64)[:, None] * stride_b + classes_C[None, :]
    mean_C = tl.load(mean_ptr + classes_C, mask=classes_C < c, other=0.0).to(tl.float32)
    logits_BC = tl.load(pointers, mask=inside_BC, other=0.0).to(tl.float32)
    return tl.where(inside_BC, logits_BC - mean_C[None, :], 0.0)


@triton.jit
def _targets(targets_ptr, index_B, columns_B, classes_C, b, c, SOFT: tl.constexpr):
    """Targets (B, C): probabilities as given, or one-hot rows."""
    if SOFT:
        inside_BC = (columns_B < b)[:, None] & (classes_C < c)[None, :]
        return tl.load(targets_ptr + columns_B[:, None] * c + classes_C[None, :], mask=inside_BC, other=0.0)
    else:
        return tl.where(index_B[:, None] == classes_C[None, :], 1.0, 0.0)


# Else other seeds and a last, smaller mini-batch would each compile the kernel again.
@triton.jit(do_not_specialize=["seed_low", "seed_high", "n", "b", "m", "positions", "splits"])
def _kernel(
    logits_ptr, mean_ptr, base_ptr, targets_ptr, mass_ptr, affinity_ptr, attention_ptr,
    loss_ptr, total_ptr, grad_ptr,
    seed_low, seed_high, n, b, c, m, low, high, stride_p, stride_b, positions, splits,
    SOFT: tl.constexpr, SUBSET: tl.constexpr, GRADIENT: tl.constexpr, ONE_TILE: tl.constexpr,
    PRECISION: tl.constexpr, BN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    position, split = tl.program_id(0), tl.program_id(1)
    columns_B, tile_C = tl.arange(0, BB), tl.arange(0, BC)
    present_B = columns_B < b
    logits_ptr += position.to(tl.int64) * stride_p
    mean_ptr += position.to(tl.int64) * c
    base_ptr += position.to(tl.int64) * c
    place = split * positions + position
    grad_ptr += place.to(tl.int64) * b * c
    attention_B = tl.load(attention_ptr + position * b + columns_B, mask=present_B, other=0.0)
    affinity_B = tl.load(affinity_ptr + position * b + columns_B, mask=present_B, other=0.0)
    index_B = columns_B
    if not SOFT:
        index_B = tl.load(targets_ptr + columns_B, mask=present_B, other=0).to(tl.int32)
    mass_B = tl.load(mass_ptr + columns_B, mask=present_B, other=0.0)
    grad_BC = tl.zeros((BB, BC), tl.float32)
    loss = tl.zeros((BN,), tl.float32)
    total = tl.zeros((BN,), tl.float32)

    for start in range(split * BN, n, splits * BN):
        rows_N = start + tl.arange(0, BN)
        lam_NB, s_N = triton_draw.draw_block(
            start, columns_B, position, attention_B, seed_low, seed_high, b, m, low, high, SUBSET, BN, HALVES
        )
        s_N = tl.where(rows_N < n, s_N, 0.0)
        mass_N = tl.sum(lam_NB * mass_B[None, :], 1)
        loss -= s_N * tl.sum(lam_NB * affinity_B[None, :], 1)
        total += s_N
        if ONE_TILE:
            base_C = tl.load(base_ptr + tile_C, mask=tile_C < c, other=-float("inf"))
            dz_NC = _dot(lam_NB, _deviations(logits_ptr, mean_ptr, columns_B, tile_C, b, c, stride_b), PRECISION)
            y_NC = _dot(lam_NB, _targets(targets_ptr, index_B, columns_B, tile_C, b, c, SOFT), PRECISION)
            z_NC = dz_NC + base_C[None, :]
            top_N = tl.max(z_NC, 1)
            exp_NC = tl.exp(z_NC - top_N[:, None])
            sum_N = tl.sum(exp_NC, 1)
            loss += s_N * (mass_N * (top_N + tl.log(sum_N)) - tl.sum(y_NC * dz_NC, 1))
            if GRADIENT:
                residual_NC = s_N[:, None] * (exp_NC * (mass_N / sum_N)[:, None] - y_NC)
                grad_BC += _dot(tl.trans(lam_NB), residual_NC, PRECISION)
        else:
            top_N = tl.full((BN,), -float("inf"), tl.float32)
            sum_N = tl.zeros((BN,), tl.float32)
            for first in range(0, c, BC):
                classes_C = first + tile_C
                base_C = tl.load(base_ptr + classes_C, mask=classes_C < c, other=-float("inf"))
                deviations_BC = _deviations(logits_ptr, mean_ptr, columns_B, classes_C, b, c, stride_b)
                z_NC = _dot(lam_NB, deviations_BC, PRECISION) + base_C[None, :]
                higher_N = tl.maximum(top_N, tl.max(z_NC, 1))
                sum_N = sum_N * tl.exp(top_N - higher_N) + tl.sum(tl.exp(z_NC - higher_N[:, None]), 1)
                top_N = higher_N
            lse_N = top_N + tl.log(sum_N)
            loss += s_N * mass_N * lse_N
            for first in range(0, c, BC):
                classes_C = first + tile_C
                deviations_BC = _deviations(logits_ptr, mean_ptr, columns_B, classes_C, b, c, stride_b)
                dz_NC = _dot(lam_NB, deviations_BC, PRECISION)
                y_NC = _dot(lam_NB, _targets(targets_ptr, index_B, columns_B, classes_C, b, c, SOFT), PRECISION)
                loss -= s_N * tl.sum(y_NC * dz_NC, 1)
                if GRADIENT:
                    base_C = tl.load(base_ptr + classes_C, mask=classes_C < c, other=-float("inf"))
                    p_NC = tl.exp(dz_NC + base_C[None, :] - lse_N[:, None])
                    residual_NC = s_N[:, None] * (mass_N[:, None] * p_NC - y_NC)
                    pointers = grad_ptr + columns_B[:, None] * c + classes_C[None, :]
                    inside_BC = present_B[:, None] & (classes_C < c)[None, :]
                    written_BC = inside_BC & ((columns_B * 0 + start) > split * BN)[:, None]
                    so_far_BC = tl.load(pointers, mask=written_BC, other=0.0)
                    tl.store(pointers, so_far_BC + _dot(tl.trans(lam_NB), residual_NC, PRECISION), mask=inside_BC)
            # Other threads of this program read next what these have written.
            tl.debug_barrier()

    tl.store(loss_ptr + place, tl.sum(loss, 0))
    tl.store(total_ptr + place, tl.sum(total, 0))
    if GRADIENT and ONE_TILE:
        pointers = grad_ptr + columns_B[:, None] * c + tile_C[None, :]
        tl.store(pointers, grad_BC, mask=present_B[:, None] & (tile_C < c)[None, :])


INTERPRETED = not isinstance(_kernel, triton.JITFunction)
"""Whether the kernels run on the CPU, because TRITON_INTERPRET=1 was set when Triton was imported."""


def sums(
    logits_PBC: Tensor, targets: Tensor, attention_BP: Tensor | None, seed: int,
    n: int, m: int, low: float, high: float, gradient: bool, precision: str, launch: Launch,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """For every position: sum_k s_k H_k and sum_k s_k (P,), and the gradient of the former (P, B, C); float32.

    `logits_PBC` in float32, bfloat16 or float16. `precision` of the products: "bf16", "tf32", "tf32x3" or "ieee".
    """
    P, B, C = logits_PBC.shape
    if logits_PBC.stride(2) != 1 and C > 1:
        logits_PBC = logits_PBC.contiguous()
    if attention_BP is None:
        attention_PB = logits_PBC.new_ones(P, B, dtype=torch.float32)
    else:
        attention_PB = attention_BP.mT.to(torch.float32).contiguous()
    share_PB = attention_PB / attention_PB.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    mean_PC = torch.bmm(share_PB.to(logits_PBC.dtype)[:, None], logits_PBC)[:, 0].float()
    base_PC = mean_PC - mean_PC.amax(1, keepdim=True)
    soft = targets.is_floating_point()
    if soft:
        targets = targets.to(torch.float32).contiguous()
        mass_B, affinity_PB = targets.sum(1), base_PC @ targets.T
    else:
        targets = targets.contiguous()
        mass_B, affinity_PB = attention_PB.new_ones(B), base_PC[:, targets.long()].contiguous()
    if INTERPRETED and precision == "bf16":
        precision = "bf16 interpreted"
    S = launch.splits
    loss_SP, total_SP = attention_PB.new_empty(S, P), attention_PB.new_empty(S, P)
    grad_SPBC = attention_PB.new_empty((S, P, B, C) if gradient else 1)
    low, high = max(low, triton_draw.ALPHA_LEAST), max(high, triton_draw.ALPHA_LEAST)
    with torch.cuda.device_of(logits_PBC):
        _kernel[(P, S)](
            logits_PBC, mean_PC, base_PC, targets, mass_B, affinity_PB, attention_PB, loss_SP, total_SP, grad_SPBC,
            *triton_draw.halves(seed), n, B, C, m, low, high, logits_PBC.stride(0), logits_PBC.stride(1), P, S,
            SOFT=soft, SUBSET=m < B, GRADIENT=gradient, ONE_TILE=launch.BC >= C, PRECISION=precision,
            BN=launch.BN, BB=launch.BB, BC=launch.BC, HALVES=launch.halves,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    grad_PBC = None
    if gradient:
        grad_PBC = grad_SPBC[0] if S == 1 else grad_SPBC.sum(0)
    return loss_SP.sum(0), total_SP.sum(0), grad_PBC
