# mypy: disable-error-code="no-untyped-def, import-untyped"
"""The gradient of the limit n -> infinity in the logits by Triton: the backward half of `triton_closed_form`.

Shape suffixes as there.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .closed_form_kernel import Found, Given
from .triton_launch import Tile, width
from .triton_tiles import (
    HIGHEST,
    NEARLY_NOTHING,
    OF_BETA,
    OF_MEAN,
    OWN,
    PI_RHO,
    SPREAD,
    SPREADS,
    TIES,
    TS,
    Sizes,
    V,
    excess,
    inside,
    lse_of,
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
    weighted,
)

# Rows of the slopes.
_D_MU, _D_BETA, _D_V, _D_TOP = (tl.constexpr(row) for row in range(4))


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b"])
def _slopes(
    logits_ptr, targets_ptr, given_ptr, scalars_ptr, mass_ptr, mean_lse_ptr, q_ptr, columns_ptr, lse_ptr,
    slopes_ptr, dq_ptr, b, c, tiles, stride_r, stride_b,
    K: tl.constexpr, SOFT: tl.constexpr, ALIGN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, examples_B, classes_C = this_tile(tiles, BB, BC)
    c *= ALIGN
    width = padded(c)
    x_BC, pi_B, log_p_C, beta_C = excess(
        logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
        b, c, width, stride_r, stride_b, K, ALIGN,
    )  # fmt: skip
    mass_B = mass_of(mass_ptr, examples_B, b, SOFT)
    v_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, V, classes_C, width))
    highest_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, HIGHEST, classes_C, width))
    top_C = tl.maximum(highest_C, 0.0) + NEARLY_NOTHING

    mass_B *= pi_B
    dmu_C = tl.sum(tl.load(scalars_ptr + position * (2 * K + 1) + 2 * K) * mass_B, 0) * tl.exp2(log_p_C)
    dbeta_C, dv_C, dtop_C = tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32)
    for k in range(K):
        u, weight, t_B = node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        spread_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, SPREADS + k, classes_C, width))
        z_BC = mixed(x_BC, log_p_C, beta_C, spread_C, t_B, u)
        lse_B = lse_of(lse_ptr, position, K, k, examples_B, b)
        pushed_BC = tl.exp2(z_BC - lse_B[:, None]) * (weight * mass_B * (1.0 - t_B))[:, None]
        to_mu_C = tl.sum(pushed_BC, 0)
        inverse_C = quotient(1.0, top_C + (1.0 - u) * v_C)
        to_spread_C = 0.5 * tl.sum(pushed_BC * (1.0 - t_B)[:, None], 0) * inverse_C * inverse_C
        dmu_C += to_mu_C
        dbeta_C -= u * to_mu_C
        dv_C += to_spread_C
        dtop_C += (1.0 - u) * to_spread_C
    y_BC = targets_of(targets_ptr, examples_B, classes_C, b, c, SOFT)
    of_mean_B = of_examples(given_ptr, position, TS + K, OF_MEAN, examples_B, b)
    of_beta_B = of_examples(given_ptr, position, TS + K, OF_BETA, examples_B, b)
    pi_rho_B = of_examples(given_ptr, position, TS + K, PI_RHO, examples_B, b)
    dbeta_C += tl.sum(weighted(y_BC, of_beta_B, SOFT), 0)
    dmu_C -= tl.sum(pi_rho_B, 0) * dbeta_C
    dv_C *= top_C * top_C
    # At 0 only rounding lets an example without attention be the largest, since attended ones average to 0.
    ties_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, TIES, classes_C, width))
    dtop_C = tl.where(highest_C > 0.0, dtop_C * v_C * v_C / ties_C, 0.0)
    spread_B = of_examples(given_ptr, position, TS + K, SPREAD, examples_B, b)
    e_BC = spread_B[:, None] * x_BC * dv_C[None, :] + tl.where(x_BC == highest_C[None, :], dtop_C[None, :], 0.0)
    dmu_C -= tl.sum(e_BC + weighted(y_BC, of_mean_B, SOFT), 0)
    place = tl.program_id(0).to(tl.int64)
    tl.store(dq_ptr + place * b + examples_B, -tl.sum(e_BC, 1), mask=examples_B < b)
    tl.store(of_classes(slopes_ptr, position, 4, _D_MU, classes_C, width), dmu_C)
    tl.store(of_classes(slopes_ptr, position, 4, _D_BETA, classes_C, width), dbeta_C)
    tl.store(of_classes(slopes_ptr, position, 4, _D_V, classes_C, width), dv_C)
    tl.store(of_classes(slopes_ptr, position, 4, _D_TOP, classes_C, width), dtop_C)


@triton.jit(do_not_specialize=["b", "c", "tiles", "stride_r", "stride_b", "grad_stride_r", "grad_stride_b"])
def _gradient(
    logits_ptr, targets_ptr, given_ptr, scalars_ptr, mass_ptr, mean_lse_ptr, q_ptr, columns_ptr, lse_ptr,
    slopes_ptr, dq_ptr, scale_ptr, grad_ptr, b, c, tiles, stride_r, stride_b, grad_stride_r, grad_stride_b,
    K: tl.constexpr, SOFT: tl.constexpr, ALIGN: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    position, examples_B, classes_C = this_tile(tiles, BB, BC)
    c *= ALIGN
    width = padded(c)
    x_BC, pi_B, log_p_C, beta_C = excess(
        logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
        b, c, width, stride_r, stride_b, K, ALIGN,
    )  # fmt: skip
    mass_B = mass_of(mass_ptr, examples_B, b, SOFT)
    highest_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, HIGHEST, classes_C, width))
    p_C = tl.exp2(log_p_C)

    spread_B = of_examples(given_ptr, position, TS + K, SPREAD, examples_B, b)
    dq_B = of_examples(dq_ptr, position, 1, 0, examples_B, b)
    dmu_C = tl.load(of_classes(slopes_ptr, position, 4, _D_MU, classes_C, width))
    dbeta_C = tl.load(of_classes(slopes_ptr, position, 4, _D_BETA, classes_C, width))
    dv_C = tl.load(of_classes(slopes_ptr, position, 4, _D_V, classes_C, width))
    dtop_C = tl.load(of_classes(slopes_ptr, position, 4, _D_TOP, classes_C, width))
    # Through p only this: p . x_i is 0, so nothing is to be centred.
    dmu_C += p_C * (tl.sum(dq_B[:, None] * x_BC, 0) - tl.sum(dq_B, 0))
    grad_BC = tl.where(x_BC == highest_C[None, :], dtop_C[None, :], 0.0)
    grad_BC += spread_B[:, None] * x_BC * dv_C[None, :]
    grad_BC += dq_B[:, None] * p_C[None, :]
    grad_BC += pi_B[:, None] * dmu_C[None, :]
    grad_BC += of_examples(given_ptr, position, TS + K, PI_RHO, examples_B, b)[:, None] * dbeta_C[None, :]
    mass_B *= pi_B
    for k in range(K):
        u, weight, t_B = node(given_ptr, scalars_ptr, position, examples_B, b, k, K)
        spread_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, SPREADS + k, classes_C, width))
        z_BC = mixed(x_BC, log_p_C, beta_C, spread_C, t_B, u)
        lse_B = lse_of(lse_ptr, position, K, k, examples_B, b)
        grad_BC += tl.exp2(z_BC - lse_B[:, None]) * (weight * mass_B * t_B)[:, None]
    own_B = of_examples(given_ptr, position, TS + K, OWN, examples_B, b)
    grad_BC -= weighted(targets_of(targets_ptr, examples_B, classes_C, b, c, SOFT), own_B, SOFT)
    grad_BC *= tl.load(scale_ptr)
    places_BC = places(position, examples_B, classes_C, grad_stride_r, grad_stride_b, ALIGN)
    tl.store(grad_ptr + places_BC, grad_BC, mask=inside(examples_B, classes_C, b, c))


def backward(scale: Tensor, logits_RBC: Tensor, targets: Tensor, given: Given, found: Found, tile: Tile) -> Tensor:
    """The gradient in the logits, like these, times `scale`, a float32 scalar."""
    R, B, C = logits_RBC.shape
    grad = torch.empty_like(logits_RBC)
    sizes = Sizes(logits_RBC, targets, given, tile, grad)
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
