"""The limit n -> infinity of the mixed cross entropy, to second order and without sampling.

Derivation (this project's own; see docs/closed_form.md): the summand of (14), s times the cross entropy of a mixture,
is homogeneous of degree 1 in lambda, so its Dirichlet mean is a mean over independent Gamma variables, whose
covariance is diagonal. With attention a, pi_i = a_i / sum a, mu = sum_i pi_i l_i, ybar = sum_i pi_i y_i,
p = softmax(mu) and J = diag(p) - p p',

    E[f] / E[s] ~ lse(mu) - ybar . mu + kappa / 2 sum_i pi_i^2 q_i,
    q_i = (l_i - mu)' J (l_i - mu) - 2 (y_i - ybar) . (l_i - mu),     kappa = 1 / (alpha + sum_i pi_i^2).

For targets with sums t_i other than 1, and tbar = sum_i pi_i t_i, the first term of either line is multiplied by tbar,
and q_i gains 2 (t_i - tbar) p . (l_i - mu).

The first term is the loss at the batch mean; the second is what the spread of the mixtures around it adds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._checks import Alpha, as_probabilities, check_alpha, check_choice, check_targets, mixing_dtype


def expected_mixed_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    a: Tensor | None = None,
    alpha: Alpha = (0.5, 2.0),
    normalize: str = "position",
    *,
    spread_weight: float = 1.0,
) -> Tensor:
    """The expectation of `mixed_cross_entropy` over lambda ~ Dir(alpha) with m = b, to second order.

    At the paper's settings its gradient is as accurate as 1000 draws or far more so; with small alpha, small
    batches or very uneven attention, where few examples carry a mixture, sampling is better.

    Args:
        logits: of the clean examples, (b, c), or (r, b, c).
        targets: class indices (b,) or probabilities (b, c).
        a: attention (b, r) for logits (r, b, c); None: uniform.
        alpha: Dirichlet concentration, or a range (low, high) of which it is drawn uniformly for every mixture.
        normalize: "position" or "global", as in `mixed_cross_entropy`.
        spread_weight: multiplies the second-order term, all that tells examples apart. `rescale=True` of the criteria
            multiplies both terms, by `rescaling_factor`; this one leaves the pull on the mean prediction as it is. The
            term is not bounded below: keep `spread_weight` below (b alpha + 1) / (c - 1), see docs/closed_form.md.

    Returns:
        A scalar, float32 (float64 for float64 logits), differentiable as often as wanted.

    >>> logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
    >>> round(float(expected_mixed_cross_entropy(logits, labels)), 4)  # log 3
    1.0986
    """
    low, high = check_alpha(alpha)
    check_spread_weight(spread_weight)
    check_choice("normalize", normalize, ("position", "global"))
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.ndim not in (2, 3):
        raise ValueError(f"logits must be (b, c) or (r, b, c), got {tuple(logits.shape)}")
    if logits.numel() == 0:
        raise ValueError(
            f"logits of no examples, classes or positions cannot be mixed, got shape {tuple(logits.shape)}"
        )
    if logits.ndim == 2:
        logits = logits[None]
    r, b, c = logits.shape
    check_targets(targets, b, c)
    if a is not None and a.shape != (b, r):
        raise ValueError(f"attention must be ({b}, {r}) for logits {tuple(logits.shape)}, got {tuple(a.shape)}")
    dtype = mixing_dtype(logits.dtype)
    with torch.autocast(logits.device.type, enabled=False):
        logits_RBC, y_BC = logits.to(dtype), as_probabilities(targets, c, dtype)
        a_RB = logits_RBC.new_ones(r, b) if a is None else a.mT.to(dtype)
        total_R = a_RB.sum(1)
        attended_R = total_R > 0
        pi_RB = a_RB / torch.where(attended_R, total_R, torch.ones_like(total_R))[:, None]
        mu_RC = torch.einsum("rb,rbc->rc", pi_RB, logits_RBC)
        ybar_RC = pi_RB @ y_BC
        p_RC = mu_RC.softmax(-1)
        deviation_RBC = logits_RBC - mu_RC[:, None]
        t_B = y_BC.sum(1)
        tbar_R = pi_RB @ t_B
        slope_RB = torch.einsum("rbc,rc->rb", deviation_RBC, p_RC)
        variance_RB = torch.einsum("rbc,rc->rb", deviation_RBC.square(), p_RC) - slope_RB.square()
        fit_RB = torch.einsum("rbc,rbc->rb", y_BC - ybar_RC[:, None], deviation_RBC)
        q_RB = tbar_R[:, None] * variance_RB + 2 * (t_B - tbar_R[:, None]) * slope_RB - 2 * fit_RB
        e_R = pi_RB.square().sum(1)
        second_R = (pi_RB.square() * q_RB).sum(1)
        first_R = tbar_R * mu_RC.logsumexp(-1) - (ybar_RC * mu_RC).sum(-1)
        loss_R = first_R + 0.5 * spread_weight * _mean_inverse(low, high, e_R) * second_R
        weight_R = total_R if normalize == "global" else attended_R.to(dtype)
        weighted = (weight_R * torch.where(attended_R, loss_R, torch.zeros_like(loss_R))).sum()
        whole = weight_R.sum()
        return weighted / torch.where(whole == 0, torch.ones_like(whole), whole)


def check_spread_weight(value: float) -> float:
    """A number >= 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"spread_weight must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"spread_weight must be at least 0 and finite, got {value}")
    return float(value)


def _mean_inverse(low: float, high: float, e: Tensor) -> Tensor:
    """The mean of kappa = 1 / (alpha + e) over alpha ~ U[low, high]."""
    if low == high:
        return 1 / (low + e)
    return torch.log((high + e) / (low + e)) / (high - low)
