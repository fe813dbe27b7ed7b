"""Custom operators for fused losses, so that torch.compile, AMP and distributed training treat each as one op.

They compute their gradients in the forward pass (see `logits_space`), so the backward is one multiplication. They
stay in float32 until then: a float16 gradient would underflow before a gradient scaler could lift it. When
the backward itself must be differentiable (create_graph=True) it goes through the reference instead.

Shape suffixes: P positions, N mixed examples, B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..functional._checks import mixing_dtype
from ..functional._transforms import without_autocast
from ..functional.attention import attend
from ..functional.loss import counted, normalized_weights, or_one, reference
from . import sampled
from .logits_space import Accumulator, Details

_Function = Callable[..., Any]


def fused_cross_entropy(logits_PBC: Tensor, targets: Tensor, lam_PNB: Tensor, w_PN: Tensor) -> Tensor:
    """sum_k w_k H(y~_k, softmax(z~_k)) for given weights `lam_PNB` and normalised `w_PN`."""
    wants = logits_PBC.requires_grad, lam_PNB.requires_grad or w_PN.requires_grad
    loss: Tensor = _mixed(logits_PBC, targets, lam_PNB, w_PN, *wants)[0]
    return loss


def sampled_cross_entropy(
    logits_PBC: Tensor,
    targets: Tensor,
    attention_BP: Tensor | None,
    seed: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    n: int,
    m: int | None,
    normalize: str,
    implementation: str = "auto",
) -> Tensor:
    """The loss over weights that are drawn, attended to, used and dropped block by block.

    Args:
        seed, low, high: CPU scalars, the last two of alpha; numbers would be constants of what `torch.compile` makes.
        implementation: "chunked": equal to `sample_weights` (with a generator on the device of the logits seeded with
            `seed`), `attend` and `mixed_cross_entropy`, without ever holding more than a block of weights. "triton":
            kernels, whose draws are others of the same distribution; ValueError where they cannot run. "auto":
            these where `crossover` has measured them to be faster, else chunked.
    """
    options = n, m or logits_PBC.shape[1], normalize == "global", logits_PBC.requires_grad, implementation
    loss: Tensor = _sampled(logits_PBC, targets, attention_BP, seed, low, high, *options)[0]
    return loss


_library = torch.library.Library("multimix", "FRAGMENT")


def define_operator(
    name: str,
    forward: _Function,
    fake: _Function,
    backward: _Function | None = None,
    setup_context: _Function | None = None,
    *,
    from_host: bool = False,
) -> Any:
    """Register an operator. `torch.library.custom_op` would do, but its first call imports the compiler, which takes
    seconds, also in programs that never compile.

    Args:
        from_host: it takes numbers from the host, so that `torch.compile` must leave it out of CUDA graphs (mode
            "reduce-overhead"): a replay would repeat a seed, and read memory of the host that is others' by then.
    """
    tags = (torch.Tag.cudagraph_unsafe,) if from_host else ()
    _library.define(name + torch.library.infer_schema(forward, mutates_args=()), tags=tags)
    _library.impl(name, forward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"multimix::{name}", fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(f"multimix::{name}", backward, setup_context=setup_context, lib=_library)
    vars(torch.ops.multimix).pop(name, None)  # what torch 2.11 keeps of a module that was loaded before
    return getattr(torch.ops.multimix, name).default


def refuse_capture(device: torch.device) -> None:
    """Raise where a CUDA graph is being captured: see `from_host` of `define_operator`."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "this loss cannot be captured in a CUDA graph: it takes a seed or other numbers from the host, which a "
            "replay would repeat or no longer find. Capture the network, and compute the loss outside"
        )


def _mixed_forward(
    logits: Tensor, targets: Tensor, lam: Tensor, w: Tensor, gradient: bool, details: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with without_autocast(logits):
        sums = Accumulator(logits.to(lam.dtype), targets, gradient=gradient)
        found = Details(lam.new_empty(0), lam.new_empty(0))
        parts = [sums.add(p, lam[p], w[p], details=details) for p in sums.position_blocks(lam.shape[1])]
        if details:
            found = Details.cat(parts, dim=0)
        losses, grad = sums.finish()
        return losses.sum(), lam.new_empty(0) if grad is None else grad, found.grad_lam_PNB, found.terms_PN


def _mixed_fake(
    logits: Tensor, targets: Tensor, lam: Tensor, w: Tensor, gradient: bool, details: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad = lam.new_empty(logits.shape if gradient else 0)
    if details:
        return lam.new_empty(()), grad, lam.new_empty(lam.shape), w.new_empty(w.shape)
    return lam.new_empty(()), grad, lam.new_empty(0), lam.new_empty(0)


def _mixed_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])
    ctx.set_materialize_grads(False)


def _mixed_backward(ctx: Any, grad_loss: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, targets, lam, w, *grads = ctx.saved_tensors
    if grad_loss is None:
        return (None,) * 6
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        inputs = [t for t in (logits, lam, w) if t.requires_grad]
        through = torch.autograd.grad(reference(logits, targets, lam, w), inputs, grad_loss, create_graph=True)
        by_input = dict(zip(map(id, inputs), through, strict=True))
        return by_input.get(id(logits)), None, by_input.get(id(lam)), by_input.get(id(w)), None, None
    needs = ctx.needs_input_grad[0], ctx.needs_input_grad[2], ctx.needs_input_grad[3]
    scaled = [
        (grad_loss * grad).to(like.dtype) if need else None
        for grad, like, need in zip(grads, (logits, lam, w), needs, strict=True)
    ]
    return scaled[0], None, scaled[1], scaled[2], None, None


_mixed = define_operator("mixed_cross_entropy", _mixed_forward, _mixed_fake, _mixed_backward, _mixed_context)


def _sampled_forward(
    logits: Tensor,
    targets: Tensor,
    attention: Tensor | None,
    seed: Tensor,
    low: Tensor,
    high: Tensor,
    n: int,
    m: int,
    pooled: bool,
    gradient: bool,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor]:
    refuse_capture(logits.device)
    draws = int(seed), n, m, float(low), float(high)
    with without_autocast(logits):
        losses, total_P, grad = sampled.sums(
            logits, targets, attention, *draws, gradient=gradient, implementation=implementation
        )
        if pooled:
            scale = torch.ones_like(total_P) / or_one(counted(total_P.sum()))
        else:
            total_P = counted(total_P)
            scale = or_one(total_P).reciprocal() / or_one((total_P > 0).sum())
        if grad is not None:
            grad.mul_(scale[:, None, None])
        return (losses * scale).sum(), losses.new_empty(0) if grad is None else grad


def _sampled_fake(
    logits: Tensor,
    targets: Tensor,
    attention: Tensor | None,
    seed: Tensor,
    low: Tensor,
    high: Tensor,
    n: int,
    m: int,
    pooled: bool,
    gradient: bool,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty((), dtype=mixing_dtype(logits.dtype))
    return loss, loss.new_empty(logits.shape if gradient else 0)


def _sampled_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.options = *inputs[6:9], inputs[10]
    ctx.set_materialize_grads(False)


def _sampled_backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, targets, attention, seed, low, high, grad = ctx.saved_tensors
    if grad_loss is None:
        return (None,) * 11
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        loss = _resampled_reference(logits, targets, attention, seed, low, high, *ctx.options)
        through = torch.autograd.grad(loss, logits, grad_loss, create_graph=True)[0]
        return through, *(None,) * 10
    return (grad_loss * grad).to(logits.dtype), *(None,) * 10


_sampled = define_operator(
    "sampled_cross_entropy", _sampled_forward, _sampled_fake, _sampled_backward, _sampled_context, from_host=True
)


def _resampled_reference(
    logits: Tensor, targets: Tensor, attention: Tensor | None, seed: Tensor, low: Tensor, high: Tensor, n: int, m: int,
    pooled: bool, implementation: str,
) -> Tensor:  # fmt: skip
    """The same draws again, through the differentiable reference."""
    lam = sampled.weights(logits, targets, int(seed), n, m, float(low), float(high), implementation=implementation)
    s = None
    if attention is not None:
        lam, s = attend(lam, attention)
    return reference(logits, targets, lam, normalized_weights(lam, s, "global" if pooled else "position"))
