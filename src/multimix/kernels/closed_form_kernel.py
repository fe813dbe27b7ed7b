"""The limit n -> infinity by Triton as operators: the loss, and in the backward pass its gradient.

Unlike `closed_form`, which has the gradient from the forward pass, nothing of the size of the logits is kept in
between, and the gradient is multiplied by that of the loss before it is rounded to the precision of the logits.

Shape suffixes: K nodes, R positions, B batch.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional._quadrature import concentrations, exponential_over_concentration, unit_interval
from ..functional._transforms import without_autocast
from ..functional.closed_form import LAPLACE_NODES, SHARES, Weights, position_weights, reference
from . import triton_launch
from .ops import define_operator, refuse_capture


class Nodes(NamedTuple):
    """Those of the integrals over u, alpha and s, all in one tensor, each set of nodes followed by its weights."""

    numbers: Tensor
    """x = -log(1 - u) / sum of pi^2; alpha; log y, where s = (y^-power - 1) / sum of pi^2"""
    u: int
    alpha: int
    s: int


class Given(NamedTuple):
    """What follows from the attention alone, float32; sums over nodes are weighted by a (see `closed_form`)."""

    examples: Tensor
    """(R, 6 + K, B): pi, pi rho, 2 rest pi share; the sums of t, of 1 - t together with what counts at the mean, and of
    u (1 - t); t at every node"""
    scalars: Tensor
    """(R, 2 K + 1): u of the nodes, and what multiplies pi there and at the mean"""


class Found(NamedTuple):
    """What the forward pass leaves to the backward pass."""

    columns: Tensor
    """(R, 5 + K, width): mu, beta, v, the largest excess, how many examples have it; the spread at every node in units
    of log2"""
    mean_lse: Tensor
    """(R,): log-sum-exp of mu"""
    q: Tensor
    """(R, B): p . (l_i - mu)"""
    lse: Tensor
    """(R, K, B): log2-sum-exp of z"""


def expectation(
    logits_RBC: Tensor, targets: Tensor, a_BR: Tensor | None, weights: Weights, pooled: bool, spread_weight: float
) -> Tensor:
    """`functional.closed_form.reference`, without a gradient in targets or attention."""
    loss: Tensor = _expected(logits_RBC, targets, a_BR, *weights[:3], pooled, float(spread_weight))[0]
    return loss


@functools.lru_cache(maxsize=64)
def _nodes(weights: Weights, device: torch.device) -> Nodes:
    """Copied to the device once: at every step, even without waiting, it would cost as much as a kernel."""
    alphas, alpha_weights = concentrations(*weights)
    x, x_weights = exponential_over_concentration(SHARES, *weights)
    y, measure = unit_interval(LAPLACE_NODES)
    log_y = list(map(math.log, y))
    numbers = [*x, *x_weights, *alphas, *alpha_weights, *log_y, *measure]
    return Nodes(torch.tensor(numbers, dtype=torch.float32, device=device), len(x), len(alphas), len(y))


def _forward(
    logits: Tensor, targets: Tensor, attention: Tensor | None, low: float, high: float, m: int, pooled: bool,
    spread_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from . import triton_closed_form, triton_shares

    refuse_capture(logits.device)  # `_nodes` would be kept in memory that is the graph's
    r, b, c = logits.shape
    with without_autocast(logits):
        a_BR = logits.new_ones((), dtype=torch.float32).expand(b, r) if attention is None else attention.float()
        weight_R = position_weights(a_BR.sum(0), pooled)
        nodes = _nodes((low, high, m, b), logits.device)
        given = triton_shares.attend(a_BR, weight_R, nodes, spread_weight)
        tile = triton_launch.tile(b=b, c=c, backward=False)
        losses, found = triton_closed_form.forward(_by_rows(logits), targets, given, tile)
        return losses.sum(), *given, *found


def _fake(
    logits: Tensor, targets: Tensor, attention: Tensor | None, low: float, high: float, m: int, pooled: bool,
    spread_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    r, b, c = logits.shape
    new = logits.new_empty(0, dtype=torch.float32).new_empty
    given = Given(new(r, 6 + SHARES, b), new(r, 2 * SHARES + 1))
    found = Found(new(r, 5 + SHARES, triton_launch.width(c)), new(r), new(r, b), new(r, SHARES, b))
    return new(()), *given, *found


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3], *output[1:])
    ctx.options = inputs[3:]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, targets, attention, *known = ctx.saved_tensors
    if grad_loss is None:
        return (None,) * 8
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        low, high, m, pooled, spread_weight = ctx.options
        loss = reference(logits, targets, attention, (low, high, m, logits.shape[1]), pooled, spread_weight)
        return torch.autograd.grad(loss, logits, grad_loss, create_graph=True)[0], *(None,) * 7
    return _gradient(grad_loss, logits, targets, *known), *(None,) * 7


def _gradient_forward(
    scale: Tensor, logits: Tensor, targets: Tensor, examples: Tensor, scalars: Tensor, columns: Tensor,
    mean_lse: Tensor, q: Tensor, lse: Tensor,
) -> Tensor:  # fmt: skip
    from . import triton_closed_form_gradient

    _, b, c = logits.shape
    given, found = Given(examples, scalars), Found(columns, mean_lse, q, lse)
    tile = triton_launch.tile(b=b, c=c, backward=True)
    return triton_closed_form_gradient.backward(scale, _by_rows(logits), targets, given, found, tile)


def _gradient_fake(
    scale: Tensor, logits: Tensor, targets: Tensor, examples: Tensor, scalars: Tensor, columns: Tensor,
    mean_lse: Tensor, q: Tensor, lse: Tensor,
) -> Tensor:  # fmt: skip
    return torch.empty_like(_by_rows(logits))


def _by_rows(logits: Tensor) -> Tensor:
    """The classes of an example side by side, which a convolution as the classifier does not give."""
    return logits if logits.stride(2) == 1 else logits.contiguous()


_expected = define_operator(
    "expected_mixed_cross_entropy_triton", _forward, _fake, _backward, _setup_context, from_host=True
)
_gradient = define_operator("expected_mixed_cross_entropy_triton_gradient", _gradient_forward, _gradient_fake)
