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
from ..functional.closed_form import Weights, nearly_nothing, reference, relative_attention, shares
from .ops import define_operator

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
    r, b, c = logits.shape
    dtype, on_cpu = mixing_dtype(logits.dtype), logits.device.type == "cpu"
    with torch.autocast(logits.device.type, enabled=False):
        weights = low, high, m, b
        if attention is None:
            numbers = torch.tensor(_uniform(weights, spread_weight, r), dtype=dtype, device="cpu")
            numbers = numbers.to(logits.device, non_blocking=True)
            given = _Coefficients(*numbers[..., None, None].expand(-1, -1, r, b))
        else:
            pi_RB, weight_R = relative_attention(attention.mT.to(dtype), pooled)
            given = _coefficients(pi_RB, weights, spread_weight).times(weight_R[:, None])
        labels = _Targets(targets, c, dtype)
        # In the memory order of the logits, which are a view of what the classifier returned.
        grad = torch.empty_like(logits, dtype=dtype) if gradient else logits.new_empty(0, dtype=dtype)
        step = max(1, (_BLOCK_CPU if on_cpu else _BLOCK_ACCELERATOR) // (b * c))
        memory = logits.new_empty(2, min(step, r), b, c, dtype=dtype)
        losses = []
        for start in range(0, r, step):
            where = slice(start, min(start + step, r))
            x_PBC, z_PBC = memory[:, : where.stop - start]
            if attention is None:
                x_PBC.copy_(logits[where])
            else:
                torch.mul(logits[where], (given.pi[0, where] > 0).to(dtype)[..., None], out=x_PBC)
            block = _Coefficients(*(each[:, where] for each in given))
            out = grad[where] if gradient else None
            losses.append(_block(x_PBC, z_PBC, labels, block, spread_weight, out, uniform=attention is None))
        return torch.stack(losses).sum(), grad


def _block(
    x_PBC: Tensor, z_PBC: Tensor, labels: _Targets, given: _Coefficients, spread_weight: float, grad_PBC: Tensor | None,
    *, uniform: bool,
) -> Tensor:  # fmt: skip
    """The loss of some positions; its gradient goes to `grad_PBC`.

    Args:
        x_PBC: the logits, 0 for examples without attention; overwritten.
        z_PBC: memory; overwritten.
    """
    pi_PB, pi_rho_PB, spread_PB = given.pi[0], given.pi_rho[0], given.spread[0]
    nothing = nearly_nothing(x_PBC.dtype)
    attended_PB = (pi_PB > 0).to(x_PBC.dtype)

    mu_PC, beta_PC = torch.bmm(torch.stack([pi_PB, pi_rho_PB], 1), x_PBC).unbind(1)
    beta_PC = beta_PC - pi_rho_PB.sum(1, keepdim=True) * mu_PC
    p_PC = mu_PC.softmax(-1)
    q_PB = torch.bmm(x_PBC, p_PC[..., None])[..., 0] - attended_PB * (mu_PC * p_PC).sum(-1, keepdim=True)
    shift_P2C = torch.stack([mu_PC, torch.ones_like(mu_PC)], 1)
    x_PBC.baddbmm_(torch.stack([attended_PB, q_PB], -1), shift_P2C, alpha=-1)

    highest_PC = x_PBC.amax(1)
    top_PC = highest_PC + nothing
    torch.mul(x_PBC, x_PBC, out=z_PBC)
    v_PC = 0.5 * torch.bmm(spread_PB[:, None], z_PBC)[:, 0]
    u_KP1 = given.u[..., :1]
    bound_KPC = top_PC + (1 - u_KP1) * v_PC
    spread_KPC = 0.5 * v_PC * top_PC / bound_KPC

    loss = (given.a_rest2 * labels.of_classes(spread_KPC)).sum()
    if spread_weight != 1:
        mass_P1 = (1 - spread_weight) * labels.weighted_by_mass(given.at_mean[0]).sum(-1, keepdim=True)
        at_mean_PC = labels.to_classes(given.at_mean[0])
        loss = loss + (mass_P1[:, 0] * mu_PC.logsumexp(-1)).sum()
        loss = loss - (1 - spread_weight) * (at_mean_PC * mu_PC).sum()

    sums = []
    for k in range(len(spread_KPC)):
        rest_PB1 = 1 - given.t[k][..., None]
        u_PB1 = given.u[k][..., None]
        if uniform:
            rest_P11, u_P11 = rest_PB1[:, :1], u_PB1[:, :1]
            base = mu_PC[:, None] - u_P11 * rest_P11 * beta_PC[:, None] + rest_P11.square() * spread_KPC[k][:, None]
        else:
            left_PB3 = torch.cat([torch.ones_like(rest_PB1), -u_PB1 * rest_PB1, rest_PB1.square()], -1)
            base = torch.bmm(left_PB3, torch.stack([mu_PC, beta_PC, spread_KPC[k]], 1), out=z_PBC)
        torch.addcmul(base, x_PBC, given.t[k][..., None], out=z_PBC)
        log_PBC = z_PBC.log_softmax(-1)
        loss = loss - (given.a[k] * labels.of(log_PBC)).sum()
        if grad_PBC is None:
            continue
        softmax_PBC = log_PBC.exp_()
        pull_PB1 = labels.weighted_by_mass(given.a_t[k])[..., None]
        if k == 0:
            torch.mul(softmax_PBC, pull_PB1, out=grad_PBC)
        else:
            grad_PBC.addcmul_(softmax_PBC, pull_PB1)
        left_P2B = labels.weighted_by_mass(torch.stack([given.a_rest[k], given.a_rest2[k]], 1))
        sums.append(torch.bmm(left_P2B, softmax_PBC))
    if grad_PBC is None:
        return loss

    to_mu_KPC, to_spread_KPC = torch.stack(sums).unbind(2)
    dbeta_PC = labels.to_classes((given.u * given.a_rest).sum(0)) - (u_KP1 * to_mu_KPC).sum(0)
    dmu_PC = to_mu_KPC.sum(0) - labels.to_classes(given.a_rest.sum(0))
    if spread_weight != 1:
        dmu_PC = dmu_PC + mass_P1 * p_PC - (1 - spread_weight) * at_mean_PC
    to_spread_KPC = 0.5 * to_spread_KPC / bound_KPC.square()
    dv_PC = top_PC.square() * to_spread_KPC.sum(0)
    dtop_PC = v_PC.square() * ((1 - u_KP1) * to_spread_KPC).sum(0)
    labels.subtract(grad_PBC, given.a_t.sum(0))

    largest_PBC = torch.eq(x_PBC, highest_PC[:, None])
    dtop_PC = dtop_PC / largest_PBC.sum(1)
    if uniform:
        torch.mul(x_PBC, (spread_PB[:, :1] * dv_PC)[:, None], out=z_PBC)
    else:
        torch.mul(x_PBC, dv_PC[:, None], out=z_PBC).mul_(spread_PB[..., None])
    z_PBC.addcmul_(largest_PBC, dtop_PC[:, None])
    dq_PB = -z_PBC.sum(-1)
    dp_PC = torch.bmm(dq_PB[:, None], x_PBC)[:, 0]
    dmu_PC = dmu_PC + p_PC * (dp_PC - (p_PC * dp_PC).sum(-1, keepdim=True) - dq_PB.sum(1, keepdim=True))
    dmu_PC = dmu_PC - z_PBC.sum(1) - pi_rho_PB.sum(1, keepdim=True) * dbeta_PC
    z_PBC.baddbmm_(torch.stack([dq_PB, pi_rho_PB, pi_PB], -1), torch.stack([p_PC, dbeta_PC, dmu_PC], 1))
    grad_PBC.add_(z_PBC)
    return loss


class _Coefficients(NamedTuple):
    """Of examples, (K or 1, R, B): pi and pi rho, and what the sums of the module's docstring are weighted by."""

    pi: Tensor
    pi_rho: Tensor
    spread: Tensor
    """2 rest pi share"""
    u: Tensor
    t: Tensor
    at_mean: Tensor
    a: Tensor
    a_t: Tensor
    a_rest: Tensor
    a_rest2: Tensor

    def times(self, weight: Tensor | float) -> _Coefficients:
        """With positions that count `weight` (R, 1)."""
        return _Coefficients(*self[:5], *(each * weight for each in self[5:]))


def _coefficients(pi_RB: Tensor, weights: Weights, spread_weight: float) -> _Coefficients:
    found = shares(pi_RB, weights)
    t_KRB = torch.stack(found.t_KRB)
    u_KRB = torch.stack(found.u_KR)[..., None].expand_as(t_KRB)
    a_KRB = torch.stack([spread_weight * weight * pi_RB for weight in found.weight_K])
    a_rest_KRB = a_KRB * (1 - t_KRB)
    spread_RB = 2 * found.rest_R[:, None] * pi_RB * found.share_RB
    single = pi_RB[None], (pi_RB * found.rho_RB)[None], spread_RB[None]
    return _Coefficients(*single, u_KRB, t_KRB, pi_RB[None], a_KRB, a_KRB * t_KRB, a_rest_KRB, a_rest_KRB * (1 - t_KRB))


@functools.lru_cache(maxsize=64)
def _uniform(weights: Weights, spread_weight: float, r: int) -> list[list[float]]:
    """One number for all examples and positions: the same every step, so it costs the device nothing."""
    b = weights[3]
    pi_RB = torch.full((1, b), 1 / b, dtype=torch.float64, device="cpu")
    fields = _coefficients(pi_RB, weights, spread_weight).times(1 / r)
    numbers: list[list[float]] = torch.stack([each[:, 0, 0].expand(len(fields.t)) for each in fields]).tolist()
    return numbers


class _Targets:
    """Products with the targets, which class indices make lookups."""

    def __init__(self, targets: Tensor, c: int, dtype: torch.dtype) -> None:
        self.c = c
        self.soft = targets.is_floating_point()
        if self.soft:
            self.y_BC = targets.to(dtype)
            self.mass_B = self.y_BC.sum(1)
        else:
            self.index_B = targets.long()
            self.row_B = torch.arange(len(targets), device=targets.device)

    def weighted_by_mass(self, weight: Tensor) -> Tensor:
        """(..., B), times what each target sums to."""
        return weight * self.mass_B if self.soft else weight

    def of(self, values_PBC: Tensor) -> Tensor:
        """y_i . values_i, (P, B)."""
        if self.soft:
            return torch.einsum("bc,pbc->pb", self.y_BC, values_PBC)
        return values_PBC[:, self.row_B, self.index_B]

    def of_classes(self, values: Tensor) -> Tensor:
        """y_i . values, (..., C) -> (..., B)."""
        return values @ self.y_BC.T if self.soft else values[..., self.index_B]

    def to_classes(self, weight_PB: Tensor) -> Tensor:
        """sum_i weight_i y_i, (P, C)."""
        if self.soft:
            return weight_PB @ self.y_BC
        # index_add_ adds examples of one class in any order on a GPU, which rounds differently every time.
        if weight_PB.device.type != "cpu":
            return weight_PB @ torch.nn.functional.one_hot(self.index_B, self.c).to(weight_PB.dtype)
        return weight_PB.new_zeros(len(weight_PB), self.c).index_add_(1, self.index_B, weight_PB)

    def subtract(self, from_PBC: Tensor, weight_PB: Tensor) -> None:
        """weight_i y_i of every example."""
        if self.soft:
            from_PBC.addcmul_(weight_PB[..., None], self.y_BC, value=-1)
        else:
            from_PBC[:, self.row_B, self.index_B] -= weight_PB


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


_expected = define_operator("expected_mixed_cross_entropy", _forward, _fake, _backward, _setup_context)
