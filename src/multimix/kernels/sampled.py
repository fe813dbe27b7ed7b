"""The sampled loss and its gradient, up to normalisation, by PyTorch block by block or by the Triton kernel.

Both draw weights, scale them by attention (10)-(11), use and drop them. They draw from the same distribution, but from
different generators.

Shape suffixes: P positions, N mixed examples, B batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._checks import mixing_dtype
from ..functional.loss import counted, or_one
from ..functional.sampling import iter_weights
from . import crossover, triton_launch
from .logits_space import Accumulator


def sums(
    logits_PBC: Tensor, targets: Tensor, attention_BP: Tensor | None,
    seed: int, n: int, m: int, low: float, high: float,
    *, gradient: bool, implementation: str,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """For every position: sum_k s_k H_k and sum_k s_k (P,), and the gradient of the former (P, B, C).

    Raises:
        ValueError: `implementation="triton"` where the kernel cannot run.
    """
    P, B, C = logits_PBC.shape
    if _by_triton(logits_PBC, targets, n, implementation):
        from . import triton_loss

        precision = triton_launch.precision(logits_PBC.dtype)
        device = triton_launch.device(logits_PBC.device)
        launch = triton_launch.choose(positions=P, n=n, b=B, c=C, precision=precision, **device)
        return triton_loss.sums(logits_PBC, targets, attention_BP, seed, n, m, low, high, gradient, precision, launch)
    dtype = mixing_dtype(logits_PBC.dtype)
    generator = torch.Generator(logits_PBC.device).manual_seed(seed)
    running = Accumulator(logits_PBC.to(dtype), targets, gradient=gradient)
    total_P = torch.zeros(P, device=logits_PBC.device, dtype=dtype)
    for where, _rows, lam in iter_weights(n, B, m, (low, high), P, generator, dtype):
        s = lam.new_ones(lam.shape[:2]) if attention_BP is None else _attend_(lam, attention_BP[:, where])
        total_P[where] += s.sum(1)
        running.add(where, lam, s)
    losses_P, grad_PBC = running.finish()
    return losses_P, total_P, grad_PBC


def weights(
    logits_PBC: Tensor, targets: Tensor, seed: int, n: int, m: int, low: float, high: float, *, implementation: str
) -> Tensor:
    """The weights (P, N, B) that `sums` draws, before attention, all in memory."""
    P, B, _ = logits_PBC.shape
    if _by_triton(logits_PBC, targets, n, implementation):
        from . import triton_draw

        return triton_draw.weights(seed, n, B, m, low, high, P, logits_PBC.device)
    dtype = mixing_dtype(logits_PBC.dtype)
    generator = torch.Generator(logits_PBC.device).manual_seed(seed)
    lam_PNB = torch.empty(P, n, B, device=logits_PBC.device, dtype=dtype)
    for where, rows, block in iter_weights(n, B, m, (low, high), P, generator, dtype):
        lam_PNB[where, rows] = block
    return lam_PNB


def _attend_(lam_PNB: Tensor, attention_BP: Tensor) -> Tensor:
    """`functional.attend` in the memory of the weights: fresh memory costs a CPU more than the arithmetic."""
    s_PN = counted(lam_PNB.mul_(attention_BP.mT[:, None].to(lam_PNB.dtype)).sum(-1))
    lam_PNB.div_(or_one(s_PN)[..., None])
    return s_PN


def _by_triton(logits: Tensor, targets: Tensor, n: int, implementation: str) -> bool:
    return crossover.takes_kernel(
        implementation, targets, lambda: crossover.kernel_is_faster(logits, n), lambda: triton_launch.why_not(logits)
    )
