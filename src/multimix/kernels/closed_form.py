"""The limit n -> infinity and its gradient in the logits, together, position by position.

`functional.closed_form` holds the equations. At one position, with x_i = l_i - mu - p . (l_i - mu) the excess of
example i, which shifts all its classes by a constant and so changes no cross entropy, and k the nodes of the integral,

    z_ki = t_ki x_i + mu - u_k (1 - t_ki) beta + (1 - t_ki)^2 spread_k,        h_k(v, top) = spread_k,
    loss = sum_ki a_ki [(1 - t_ki)^2 y_i . spread_k - y_i . log softmax(z_ki)],    a_ki = (weight of k) pi_i.

By hand, with s_ki = a_ki |y_i| softmax(z_ki), the slope in

    x_i, of z alone      G_i = sum_k t_ki (s_ki - a_ki y_i)
    spread_k             sum_i (1 - t_ki)^2 s_ki, which gives the slopes in v and top
    x_i, of v and top    E_i = 2 rest pi_i share_i x_i dv + [x_i is the largest] dtop
    beta                 dbeta = -sum_ki u_k (1 - t_ki) (s_ki - a_ki y_i)
    p . (l_i - mu)       dq_i = -E_i . 1, and in p: sum_i dq_i x_i

and what G passes on to mu joins the direct part as sum_ki (1 - t_ki) (s_ki - a_ki y_i). All else that an example
receives is of low rank: G_i + E_i + dq_i p + pi_i rho_i dbeta + pi_i dmu. So nothing of the size of the logits is held
but the gradient, x and z, the last two for a block of positions.

Shape suffixes: K nodes, P positions of a block, R all positions, B batch, C classes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional._checks import mixing_dtype
from ..functional._transforms import without_autocast
from ..functional.closed_form import Weights, nearly_nothing, reference, relative_attention, shares
from .ops import define_operator, refuse_capture
from .targets import Targets

# Logits held at a time: on the CPU a block stays in the cache, elsewhere few launches matter more.
_BLOCK_CPU, _BLOCK_ACCELERATOR = 2**17, 2**26


def fused_expectation(
    logits_RBC: Tensor, targets: Tensor, a_BR: Tensor | None, weights: Weights, pooled: bool, spread_weight: float
) -> Tensor:
    """`functional.closed_form.reference`, without a gradient in targets or attention."""
    options = *weights[:3], pooled, float(spread_weight), logits_RBC.requires_grad
    loss: Tensor = _expected(logits_RBC, targets, a_BR, *options)[0]
    return loss


def _forward(
    logits: Tensor, targets: Tensor, attention: Tensor | None, low: float, high: float, m: int, pooled: bool,
    spread_weight: float, gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    refuse_capture(logits.device)
    r, b, c = logits.shape
    dtype, uniform = mixing_dtype(logits.dtype), attention is None
    with without_autocast(logits):
        weights = low, high, m, b
        if attention is None:
            found = _Attention(*(each[..., None].expand(r, -1, b) for each in _uniform(weights, dtype, logits.device)))
            weight_R = logits.new_full((r,), 1 / r, dtype=dtype)
        else:
            pi_RB, weight_R = relative_attention(attention.mT.to(dtype), pooled)
            found = _attention(pi_RB, weights)
        labels = Targets(targets, c, dtype)
        given = _coefficients(found, weight_R, labels, spread_weight)
        # In the memory order of the logits, which are a view of what the classifier returned.
        grad = torch.empty_like(logits, dtype=dtype) if gradient else logits.new_empty(0, dtype=dtype)
        step = max(1, (_BLOCK_CPU if logits.device.type == "cpu" else _BLOCK_ACCELERATOR) // (b * c))
        memory = logits.new_empty(3, min(step, r), b, c, dtype=dtype)
        losses, nothing = [], logits.new_zeros((), dtype=dtype)
        for start in range(0, r, step):
            where = slice(start, min(start + step, r))
            x_PBC, z_PBC, s_PBC = memory[:, : where.stop - start]
            if uniform:
                x_PBC.copy_(logits[where])
            else:
                torch.where(given.attended[where][..., None] > 0, logits[where].to(dtype), nothing, out=x_PBC)
            block = _Coefficients(*(each[where] for each in given))
            out = grad[where] if gradient else None
            losses.append(_block(x_PBC, z_PBC, s_PBC, out, labels.at(where), block, uniform=uniform))
        if gradient:
            labels.subtract(grad, given.own)
        return torch.stack(losses).sum(), grad


def _block(
    x_PBC: Tensor, z_PBC: Tensor, s_PBC: Tensor, grad_PBC: Tensor | None, labels: Targets, given: _Coefficients,
    *, uniform: bool,
) -> Tensor:  # fmt: skip
    """The loss of some positions; its gradient, but for y_i in G_i, goes to `grad_PBC`.

    Args:
        x_PBC: the logits, 0 for examples without attention; overwritten.
        z_PBC, s_PBC: memory; overwritten.
    """
    mu_PC, beta_PC = torch.bmm(given.means, x_PBC).unbind(1)
    beta_PC = torch.addcmul(beta_PC, given.rho, mu_PC, value=-1)
    p_PC = mu_PC.softmax(-1)
    q_PB = torch.bmm(x_PBC, p_PC[..., None])[..., 0] - given.attended * (mu_PC * p_PC).sum(-1, keepdim=True)
    centre_PB2 = torch.stack([given.attended, q_PB], -1)
    x_PBC.baddbmm_(centre_PB2, torch.stack([mu_PC, torch.ones_like(mu_PC)], 1), alpha=-1)

    highest_P1C = x_PBC.amax(1, keepdim=True)
    top_P1C = highest_P1C.clamp(min=0) + nearly_nothing(x_PBC.dtype)
    v_P1C = 0.5 * torch.bmm(given.spread[:, None], torch.mul(x_PBC, x_PBC, out=z_PBC))
    slack_PK1 = 1 - given.u
    bound_PKC = top_P1C + slack_PK1 * v_P1C
    spread_PKC = 0.5 * v_P1C * top_P1C / bound_PKC
    # The loss at the mean, with the weight that `spread_weight` leaves it; then what stands in the docstring.
    loss = (given.mass_at_mean * mu_PC.logsumexp(-1) - (given.y_at_mean * mu_PC).sum(-1)).sum()
    loss = loss + (given.a_rest2 * labels.of_classes(spread_PKC)).sum()

    right_PK3C = torch.stack(
        [mu_PC[:, None].expand_as(spread_PKC), beta_PC[:, None].expand_as(spread_PKC), spread_PKC], 2
    )
    base_PKC = (given.left[:, :, :1] @ right_PK3C)[:, :, 0] if uniform else None
    picked, sums = [], []
    for k in range(spread_PKC.shape[1]):
        if base_PKC is not None:
            base = base_PKC[:, k, None]
        else:
            base = torch.bmm(given.left[:, k], right_PK3C[:, k], out=z_PBC)
        torch.addcmul(base, x_PBC, given.t[:, k, :, None], out=z_PBC)
        torch.log_softmax(z_PBC, -1, out=s_PBC)
        picked.append(labels.of(s_PBC))
        if grad_PBC is None:
            continue
        s_PBC.exp_()
        pull_PB1 = given.pull[:, k, :, None]
        if k == 0:
            torch.mul(s_PBC, pull_PB1, out=grad_PBC)
        else:
            grad_PBC.addcmul_(s_PBC, pull_PB1)
        sums.append(torch.bmm(given.push[:, k], s_PBC))
    loss = loss - (given.a * torch.stack(picked, 1)).sum()
    if grad_PBC is None:
        return loss

    to_mu_PKC, to_spread_PKC = torch.stack(sums, 1).unbind(2)
    dbeta_PC = given.y_beta - (given.u * to_mu_PKC).sum(1)
    dmu_PC = to_mu_PKC.sum(1) - given.y_mu + given.mass_at_mean[:, None] * p_PC
    to_spread_PKC = 0.5 * to_spread_PKC / bound_PKC.square()
    dv_P1C = top_P1C.square() * to_spread_PKC.sum(1, keepdim=True)
    dtop_P1C = v_P1C.square() * (slack_PK1 * to_spread_PKC).sum(1, keepdim=True)

    e_PBC = torch.eq(x_PBC, highest_P1C, out=s_PBC)
    # At 0 only rounding lets an example without attention be the largest, since attended ones average to 0.
    e_PBC.mul_((highest_P1C > 0) * dtop_P1C / e_PBC.sum(1, keepdim=True))
    if uniform:
        e_PBC.addcmul_(x_PBC, given.spread[:, :1, None] * dv_P1C)
    else:
        e_PBC.addcmul_(torch.mul(x_PBC, dv_P1C, out=z_PBC), given.spread[..., None])
    dq_PB = -e_PBC.sum(-1)
    dp_PC = torch.bmm(dq_PB[:, None], x_PBC)[:, 0]
    dmu_PC = dmu_PC + p_PC * (dp_PC - (p_PC * dp_PC).sum(-1, keepdim=True) - dq_PB.sum(-1, keepdim=True))
    dmu_PC = dmu_PC - e_PBC.sum(1) - given.rho * dbeta_PC
    left_PB3 = torch.cat([given.means.mT, dq_PB[..., None]], -1)
    e_PBC.baddbmm_(left_PB3, torch.stack([dmu_PC, dbeta_PC, p_PC], 1))
    grad_PBC.add_(e_PBC)
    return loss


class _Attention(NamedTuple):
    """What the attention alone gives, (R, 1, B) and, of the nodes, (R, K, B)."""

    pi: Tensor
    pi_rho: Tensor
    spread: Tensor
    """2 rest pi share"""
    u: Tensor
    t: Tensor
    a: Tensor


def _attention(pi_RB: Tensor, weights: Weights) -> _Attention:
    found = shares(pi_RB, weights)
    pi_R1B = pi_RB[:, None]
    t_RKB = torch.stack(found.t_KRB, 1)
    u_RKB = torch.stack(found.u_KR, 1)[..., None].expand_as(t_RKB)
    a_RKB = torch.cat([weight * pi_R1B for weight in found.weight_K], 1)
    spread_R1B = 2 * found.rest_R[:, None, None] * pi_R1B * found.share_RB[:, None]
    return _Attention(pi_R1B, pi_R1B * found.rho_RB[:, None], spread_R1B, u_RKB, t_RKB, a_RKB)


@functools.lru_cache(maxsize=64)
def _uniform(weights: Weights, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The fields of `_Attention`, equal for all examples: the same at every step, so they go to the device once."""
    b = weights[3]
    fields = _attention(torch.full((1, b), 1 / b, dtype=torch.float64, device="cpu"), weights)
    numbers = torch.stack([each[0, :, 0].expand(len(fields.t[0])) for each in fields])
    return numbers.to(dtype).to(device)  # in this order: not every device has float64


class _Coefficients(NamedTuple):
    """What the sums of a block are weighted by."""

    means: Tensor
    """(R, 2, B): pi, pi rho"""
    rho: Tensor
    """(R, 1): the sum of pi rho"""
    attended: Tensor
    """(R, B)"""
    spread: Tensor
    """(R, B)"""
    u: Tensor
    """(R, K, 1)"""
    t: Tensor
    """(R, K, B)"""
    left: Tensor
    """(R, K, B, 3): what multiplies mu, beta and the spread in z"""
    a: Tensor
    a_rest2: Tensor
    pull: Tensor
    """(R, K, B): of softmax(z) in G"""
    push: Tensor
    """(R, K, 2, B): of softmax(z) in the slopes in mu and the spread"""
    own: Tensor
    """(R, B): of y in G"""
    y_mu: Tensor
    y_beta: Tensor
    """(R, C): what the targets contribute to the slopes in mu and beta"""
    mass_at_mean: Tensor
    """(R,)"""
    y_at_mean: Tensor
    """(R, C)"""


def _coefficients(found: _Attention, weight_R: Tensor, labels: Targets, spread_weight: float) -> _Coefficients:
    pi_RB, pi_rho_RB, spread_RB = (each[:, 0] for each in found[:3])
    u_RKB, t_RKB, a_RKB = found[3:]
    a_RKB = spread_weight * weight_R[:, None, None] * a_RKB
    rest_RKB = 1 - t_RKB
    a_rest_RKB = a_RKB * rest_RKB
    a_rest2_RKB = a_rest_RKB * rest_RKB
    at_mean_RB = (1 - spread_weight) * weight_R[:, None] * pi_RB
    y_at_mean_RC = labels.to_classes(at_mean_RB[:, None])[:, 0]
    return _Coefficients(
        means=torch.stack([pi_RB, pi_rho_RB], 1),
        rho=pi_rho_RB.sum(1, keepdim=True),
        # Of a position that nobody attends `pi` is uniform, and what is there may be anything.
        attended=((pi_RB > 0) & (weight_R > 0)[:, None]).to(pi_RB.dtype),
        spread=spread_RB,
        u=u_RKB[..., :1],
        t=t_RKB,
        left=torch.stack([torch.ones_like(rest_RKB), -u_RKB * rest_RKB, rest_RKB.square()], -1),
        a=a_RKB,
        a_rest2=a_rest2_RKB,
        pull=labels.weighted_by_mass(a_RKB * t_RKB),
        push=labels.weighted_by_mass(torch.stack([a_rest_RKB, a_rest2_RKB], 2)),
        own=(a_RKB * t_RKB).sum(1),
        y_mu=labels.to_classes(a_rest_RKB.sum(1, keepdim=True))[:, 0] + y_at_mean_RC,
        y_beta=labels.to_classes((u_RKB * a_rest_RKB).sum(1, keepdim=True))[:, 0],
        mass_at_mean=labels.weighted_by_mass(at_mean_RB).sum(1),
        y_at_mean=y_at_mean_RC,
    )


def _fake(
    logits: Tensor, targets: Tensor, attention: Tensor | None, low: float, high: float, m: int, pooled: bool,
    spread_weight: float, gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = mixing_dtype(logits.dtype)
    grad = torch.empty_like(logits, dtype=dtype) if gradient else logits.new_empty(0, dtype=dtype)
    return logits.new_empty((), dtype=dtype), grad


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.options = inputs[3:8]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, targets, attention, grad = ctx.saved_tensors
    if grad_loss is None:
        return (None,) * 9
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        low, high, m, pooled, spread_weight = ctx.options
        loss = reference(logits, targets, attention, (low, high, m, logits.shape[1]), pooled, spread_weight)
        return torch.autograd.grad(loss, logits, grad_loss, create_graph=True)[0], *(None,) * 8
    return (grad_loss * grad).to(logits.dtype), *(None,) * 8


_expected = define_operator("expected_mixed_cross_entropy", _forward, _fake, _backward, _setup_context, from_host=True)
