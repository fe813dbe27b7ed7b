"""The sampler of interpolation weights against PyTorch's: gamma variates by `torch._standard_gamma`, normalised."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..functional._checks import Alpha, check_alpha
from ..functional.sampling import iter_weights
from .measure import Ratio, interleaved, ratio

ALPHAS: tuple[Alpha, ...] = (0.02, 0.5, 0.7, 1.0, 2.0, (0.5, 2.0))
"""Concentrations of the table: fixed ones, our preset and those with a shortcut (half an integer) among them, and the
paper's range."""
POSITIONS = 4
"""Of the batch whose weights are drawn."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    alpha: Alpha
    n: int
    b: int
    r: int
    pytorch_ns: float
    """Nanoseconds per weight."""
    ours_ns: float
    faster: Ratio
    """Time of PyTorch's over time of ours."""


def run(
    *,
    n: int = 1000,
    b: int = 128,
    r: int = POSITIONS,
    alphas: tuple[Alpha, ...] = ALPHAS,
    rounds: int = 15,
    device: str = "cpu",
) -> Iterator[Row]:
    """Rows as they are measured: the weights of one batch, (r, n, b), ours block by block as the loss takes them.

    >>> row = next(run(n=10, b=4, r=1, rounds=2))
    >>> row.alpha, row.faster.median > 0
    (0.02, True)
    """
    generator = torch.Generator(device).manual_seed(0)
    for alpha in alphas:
        low, high = check_alpha(alpha)

        def pytorch(low: float = low, high: float = high) -> None:
            concentrations = torch.empty(r, n, 1, device=device).uniform_(low, high, generator=generator)
            gammas = torch._standard_gamma(concentrations.expand(r, n, b).contiguous(), generator=generator)
            gammas.div_(gammas.sum(-1, keepdim=True))

        def ours(alpha: Alpha = alpha) -> None:
            for _block in iter_weights(n, b, None, alpha, r, generator, torch.float32):
                pass

        seconds = interleaved({"pytorch": pytorch, "ours": ours}, rounds=rounds, device=device, turn=0.02)
        pytorch_ns, ours_ns = (1e9 * statistics.median(seconds[name]) / (r * n * b) for name in ("pytorch", "ours"))
        yield Row(alpha, n, b, r, pytorch_ns, ours_ns, ratio(seconds["pytorch"], seconds["ours"]))
