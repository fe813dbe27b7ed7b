"""The limit n -> infinity of the mixed cross entropy, without sampling.

Derivation (this project's own; docs/closed_form.md). Cross entropy is linear in the target, so the expected loss is a
mean over examples i of the cross entropy of y_i at mixtures that hold more of i: in terms of the Gamma variables that
make a Dirichlet vector, Exp(1) more. With attention a, pi_i = a_i / sum a, mu = sum_i pi_i l_i and d_i = l_i - mu,

    E[s H(y~, softmax(z~))] / E[s] = sum_i pi_i E H(y_i, softmax(t_i l_i + (1 - t_i) z')),

where t_i is the share that i gained, and z' an ordinary mixture. For uniform attention t_i = u ~ Beta(1, m alpha). Of
z' the mean and the variance are taken along. As alpha -> 0 the result is cross entropy; to second order in the
deviations d it is the Taylor expansion with the exact variances; and it is never negative.

Legend: R positions, B examples, C classes, K nodes of an integral.
"""

from __future__ import annotations

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    Alpha,
    as_probabilities,
    check_alpha,
    check_choice,
    check_count,
    check_floating,
    check_targets,
    check_tensor,
    mixing_dtype,
)
from ._quadrature import concentrations, exponential_over_concentration, unit_interval
from ._transforms import needs_formula, refuse_transforms, without_autocast
from .loss import counted, negligible, or_one

Weights = tuple[float, float, int, int]
"""Of the mixtures: the range of alpha, m and b."""

SHARES = 3  # nodes of the integral over t; more change less than the approximation is good for
LAPLACE_NODES = 8


def expected_mixed_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    a: Tensor | None = None,
    alpha: Alpha = (0.5, 2.0),
    normalize: str = "position",
    *,
    m: int | None = None,
    spread_weight: float = 1.0,
    implementation: str = "auto",
) -> Tensor:
    """The expectation of `mixed_cross_entropy` over lambda ~ Dir(alpha), approximately (docs/closed_form.md).

    At the paper's settings its gradient is far closer to the limit than 1000 draws; where few examples carry a
    mixture (m alpha of a few, very uneven attention) it is as good as some hundred draws.

    Args:
        logits: of the clean examples, (b, c), or (r, b, c).
        targets: class indices (b,) or probabilities (b, c), the same for every position; or of every position its own,
            (r, b) or (r, b, c).
        a: attention (b, r) for logits (r, b, c); None: uniform.
        alpha: Dirichlet concentration, or a range (low, high) of which it is drawn uniformly for every mixture.
        normalize: "position" or "global", as in `mixed_cross_entropy`.
        m: examples per mixture, a random subset of the mini-batch; default: b.
        spread_weight: multiplies what the spread of the mixtures adds to the loss at the batch mean: all that tells
            examples apart. `rescale=True` of the criteria multiplies the whole loss, by `rescaling_factor`.
        implementation: "fused" computes loss and gradient together, position by position, in little memory; "triton" by
            kernels on an NVIDIA GPU (ValueError where they cannot run); "reference" is the equations below through
            autograd. "auto" chooses the reference when targets or attention need a gradient, for forward-mode
            derivatives and under transforms of torch.func; else the kernels where they were measured to be faster
            (nowhere yet), else fused.

    Returns:
        A scalar, float32 (float64 for float64 logits), differentiable as often as wanted. At least 0 if
        `spread_weight` is at most 1.

    >>> logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
    >>> round(float(expected_mixed_cross_entropy(logits, labels)), 4)  # log 3
    1.0986
    """
    low, high = check_alpha(alpha)
    check_spread_weight(spread_weight)
    check_choice("normalize", normalize, ("position", "global"))
    check_choice("implementation", implementation, ("auto", "fused", "triton", "reference"))
    check_floating(logits=logits)
    if logits.ndim not in (2, 3):
        raise ValueError(f"logits must be (b, c) or (r, b, c), got {tuple(logits.shape)}")
    if logits.numel() == 0:
        raise ValueError(
            f"logits of no examples, classes or positions cannot be mixed, got shape {tuple(logits.shape)}"
        )
    positions = logits.shape[:-2]
    if logits.ndim == 2:
        logits = logits[None]
    r, b, c = logits.shape
    m = b if m is None else check_count("m", m, most=b)
    check_targets(targets, b, c, beside=logits, positions=positions)
    if a is not None and check_tensor("attention", a).shape != (b, r):
        raise ValueError(f"attention must be ({b}, {r}) for logits {tuple(logits.shape)}, got {tuple(a.shape)}")
    needs_reference = targets.requires_grad or (a is not None and a.requires_grad)
    if implementation in ("fused", "triton") and needs_reference:
        raise ValueError(
            f"implementation={implementation!r} has no gradient in targets or attention: detach them, or use 'auto' or "
            "'reference'"
        )
    by_formula = needs_formula(logits, targets, a)
    if implementation in ("fused", "triton") and by_formula:
        refuse_transforms(implementation)
    low, high = min(low, _AS_GOOD_AS_EQUAL), min(high, _AS_GOOD_AS_EQUAL)
    given = logits, targets, a, (low, high, m, b), normalize == "global", spread_weight
    if implementation == "reference" or needs_reference or by_formula:
        return reference(*given)
    from ..kernels import closed_form, closed_form_kernel, crossover, triton_launch

    by_kernel = crossover.takes_kernel(
        implementation,
        targets,
        lambda: crossover.closed_form_kernel_is_faster(logits),
        lambda: triton_launch.why_not_closed_form(logits),
    )
    return closed_form_kernel.expectation(*given) if by_kernel else closed_form.fused_expectation(*given)


_AS_GOOD_AS_EQUAL = 1e12
"""Concentrations above give weights that differ by less than rounding, and powers of them overflow."""


def check_spread_weight(value: float) -> float:
    """A number >= 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"spread_weight must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"spread_weight must be at least 0 and finite, got {value}")
    return float(value)


def reference(
    logits_RBC: Tensor, targets: Tensor, a_BR: Tensor | None, weights: Weights, pooled: bool, spread_weight: float
) -> Tensor:
    """The equations through autograd, every tensor in memory."""
    r, b, c = logits_RBC.shape
    dtype = mixing_dtype(logits_RBC.dtype)
    with without_autocast(logits_RBC):
        a_RB = logits_RBC.new_ones(r, b, dtype=dtype) if a_BR is None else a_BR.mT.to(dtype)
        pi_RB, weight_R = relative_attention(a_RB, pooled)
        y = as_probabilities(targets, c, dtype)
        y_RBC = y if y.ndim == 3 else y[None]
        # What nobody attends may be anything, without a trace in the gradient.
        logits_RBC = torch.where(weight_R[:, None, None] > 0, logits_RBC.to(dtype), 0.0)
        at_mean_R, loss_R = _expansion(logits_RBC, y_RBC, pi_RB, shares(pi_RB, weights))
        loss_R = at_mean_R + spread_weight * (loss_R - at_mean_R)
        return (weight_R * loss_R).sum()


def relative_attention(a_RB: Tensor, pooled: bool) -> tuple[Tensor, Tensor]:
    """pi of the module's docstring, and what the loss of each position counts."""
    total_R = a_RB.sum(1)
    # A position without attention counts 0; uniform attention keeps its gradient finite until then. (NaN is attention,
    # or a network that diverged would have a loss of 0.)
    pi_RB = torch.where((total_R < negligible(a_RB.dtype))[:, None], torch.ones_like(a_RB), a_RB)
    return pi_RB / pi_RB.sum(1, keepdim=True), position_weights(total_R, pooled)


def position_weights(total_R: Tensor, pooled: bool) -> Tensor:
    """What the loss of each position counts, from the sum of its attention."""
    total_R = counted(total_R)
    weight_R = total_R if pooled else (total_R != 0).to(total_R.dtype)
    return weight_R / or_one(weight_R.sum())


class Shares(NamedTuple):
    """What the weights of the mixtures contribute; K nodes of the integral over u."""

    weight_K: list[float]
    u_KR: list[Tensor]
    t_KRB: list[Tensor]
    rho_RB: Tensor
    share_RB: Tensor
    """pi kappa"""
    rest_R: Tensor
    """v_c is this times the sum over examples of pi share (d_ic - p . d_i)^2."""


def shares(pi_RB: Tensor, weights: Weights) -> Shares:
    """From the attention alone, whatever the logits."""
    nothing = nearly_nothing(pi_RB.dtype)
    e_R = pi_RB.square().sum(1)
    x_K, weight_K = exponential_over_concentration(SHARES, *weights)
    u_KR = [-torch.expm1(-x * e_R) for x in x_K]
    first_R = torch.stack([w * u for w, u in zip(weight_K, u_KR, strict=True)]).sum(0)
    cross_R = torch.stack([w * u * (1 - u) for w, u in zip(weight_K, u_KR, strict=True)]).sum(0)
    square_R = torch.stack([w * (1 - u).square() for w, u in zip(weight_K, u_KR, strict=True)]).sum(0)
    share_RB = pi_RB * _relative_variances(pi_RB, *concentrations(*weights))
    rho_RB = share_RB / first_R[:, None]
    t_KRB = [rho_RB * u / (1 - u + rho_RB * u + nothing) for u in (u_R[:, None] for u_R in u_KR)]
    # Together with the spread of u l_i it gives the whole variance; 1 / (k + 1) for u ~ Beta(1, k), never more than 1.
    rest_R = (cross_R / (square_R + nothing)).clamp(max=1) / first_R
    return Shares(weight_K, u_KR, t_KRB, rho_RB, share_RB, rest_R)


def nearly_nothing(dtype: torch.dtype) -> float:
    """Keeps 0 / 0 and its gradient finite."""
    return torch.finfo(dtype).eps ** 2


def _expansion(logits_RBC: Tensor, y_RBC: Tensor, pi_RB: Tensor, given: Shares) -> tuple[Tensor, Tensor]:
    """The loss at the mean of each position, and the expected loss; `y_RBC` may be the same for all, (1, B, C)."""
    weight_K, u_KR, t_KRB, rho_RB, share_RB, rest_R = given
    mu_RC = torch.einsum("rb,rbc->rc", pi_RB, logits_RBC)
    d_RBC = torch.where(pi_RB[..., None] > 0, logits_RBC - mu_RC[:, None], 0.0)
    mass_RB = y_RBC.sum(-1)
    p_RC = mu_RC.softmax(-1)
    mean_y_RC = torch.einsum("rb,rbc->rc", pi_RB, y_RBC)
    at_mean_R = (pi_RB * mass_RB).sum(1) * mu_RC.logsumexp(-1) - (mean_y_RC * mu_RC).sum(-1)
    beta_RC = torch.einsum("rb,rbc->rc", pi_RB * rho_RB, d_RBC)

    # Classes compete, so what matters is by how much a logit deviates more than the predicted class does on average.
    excess_RBC = d_RBC - torch.einsum("rbc,rc->rb", d_RBC, p_RC)[..., None]
    v_RC = rest_R[:, None] * torch.einsum("rb,rbc->rc", pi_RB * share_RB, excess_RBC.square())
    # Some example is at least 0 above the mean; of equal ones rounding may make all of them less.
    top_RC = excess_RBC.amax(1).clamp(min=0) + nearly_nothing(pi_RB.dtype)

    mean_RB = torch.einsum("rbc,rc->rb", y_RBC, mu_RC)
    mean_beta_RB = torch.einsum("rbc,rc->rb", y_RBC, beta_RC)
    fit_RB = torch.einsum("rbc,rbc->rb", y_RBC, d_RBC)
    loss_R = torch.zeros_like(rest_R)
    for u_R, weight, t_RB in zip(u_KR, weight_K, t_KRB, strict=True):
        u_R1 = u_R[:, None]
        rest_RB = 1 - t_RB
        # The variance v of a Gaussian would add v / 2; what is bounded by `top` adds less.
        spread_RC = 0.5 * v_RC * top_RC / (top_RC + (1 - u_R1) * v_RC)
        left_RB2 = torch.stack([rest_RB, rest_RB.square()], -1)
        raised_R2C = torch.stack([-u_R1 * beta_RC, spread_RC], 1)
        z_RBC = torch.baddbmm(t_RB[..., None] * d_RBC + mu_RC[:, None], left_RB2, raised_R2C)
        fit_z_RB = mean_RB + t_RB * fit_RB - u_R1 * rest_RB * mean_beta_RB
        terms_RB = mass_RB * z_RBC.logsumexp(-1) - fit_z_RB
        loss_R = loss_R + weight * (pi_RB * terms_RB).sum(1)
    return at_mean_R, loss_R


def _relative_variances(pi_RB: Tensor, alphas: list[float], weights: list[float]) -> Tensor:
    """kappa_i, such that pi_i^2 kappa_i is the variance of the weight of example i, weighted by s as in (14).

    With independent Gamma variables g and S = sum_i pi_i g_i, a power of 1 / S is an integral over exp(-s S):

        kappa_i = E[Var] = int_0^inf (1 + s pi_i)^-2 prod_j (1 + s pi_j)^-alpha ds,

    which is 1 / (alpha + pi_i) where pi is uniform; then the substitution below leaves a constant.
    """
    e_R11 = pi_RB.square().sum(1)[:, None, None]
    # `new_tensor` would wait for the device.
    y, measure, alpha, weight = (
        torch.tensor(x, dtype=pi_RB.dtype, device="cpu").to(pi_RB.device, non_blocking=True)
        for x in (*unit_interval(LAPLACE_NODES), alphas, weights)
    )
    log_y_Q1, alpha_A111 = y.log()[:, None], alpha[:, None, None, None]
    power_AR11 = e_R11 / (alpha_A111 + e_R11)
    s_ARQ1 = torch.expm1(-log_y_Q1 * power_AR11) / e_R11
    log_ARQB = torch.log1p(s_ARQ1 * pi_RB[:, None])
    log_ARQB = -2 * log_ARQB - alpha_A111 * log_ARQB.sum(-1, keepdim=True) - (power_AR11 + 1) * log_y_Q1
    density_AR1 = weight[:, None, None] / (alpha_A111 + e_R11)[..., 0]
    return (density_AR1 * (measure @ log_ARQB.exp())).sum(0)
