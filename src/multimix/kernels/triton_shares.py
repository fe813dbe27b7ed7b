# mypy: disable-error-code="no-untyped-def, import-untyped"
"""What follows from the attention alone in the limit n -> infinity, by Triton: a small program for each position.

Shape suffixes: K nodes, R positions, B batch (padded), Q nodes of the integral over s, as many as a power of two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..functional.loss import negligible
from .closed_form_kernel import Given, Nodes
from .triton_tiles import NEARLY_NOTHING, OF_BETA, OF_MEAN, OWN, PI, PI_RHO, SPREAD, TS

_NEGLIGIBLE = tl.constexpr(negligible(torch.float32))


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
    a_B = tl.where(tl.sum(a_B, 0) < _NEGLIGIBLE, tl.where(examples_B < b, 1.0, 0.0), a_B)  # NaN stays NaN
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
    rest = tl.minimum(cross / (square + NEARLY_NOTHING), 1.0) / first
    rho_B = pi_B * kappa_B / first
    given_ptr += position.to(tl.int64) * (TS + K) * b + examples_B
    scalars_ptr += position * (2 * K + 1)
    at_mean = (1.0 - spread_weight) * tl.load(weight_ptr + position)
    own_B, of_mean_B, of_beta_B = tl.zeros((BB,), tl.float32), at_mean * pi_B, tl.zeros((BB,), tl.float32)
    for k in range(K):
        u = -_expm1(-tl.load(nodes_ptr + k) * e)
        weight = spread_weight * tl.load(weight_ptr + position) * tl.load(nodes_ptr + K + k)
        # 1 - t would have no digits left where t is near 1.
        whole_B = 1.0 - u + rho_B * u + NEARLY_NOTHING
        t_B, rest_B = rho_B * u / whole_B, (1.0 - u + NEARLY_NOTHING) / whole_B
        own_B += weight * pi_B * t_B
        of_mean_B += weight * pi_B * rest_B
        of_beta_B += weight * pi_B * rest_B * u
        tl.store(given_ptr + (TS + k) * b, t_B, mask=examples_B < b)
        tl.store(scalars_ptr + k, u)
        tl.store(scalars_ptr + K + k, weight)
    tl.store(scalars_ptr + 2 * K, at_mean)
    tl.store(given_ptr + PI * b, pi_B, mask=examples_B < b)
    tl.store(given_ptr + PI_RHO * b, pi_B * rho_B, mask=examples_B < b)
    tl.store(given_ptr + SPREAD * b, 2.0 * rest * pi_B * pi_B * kappa_B, mask=examples_B < b)
    tl.store(given_ptr + OWN * b, own_B, mask=examples_B < b)
    tl.store(given_ptr + OF_MEAN * b, of_mean_B, mask=examples_B < b)
    tl.store(given_ptr + OF_BETA * b, of_beta_B, mask=examples_B < b)


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
