"""What the CPU at hand does in a second, measured in about two seconds: the rates under the roofline."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..functional.sampling import sample_weights
from .floor import Rates
from .measure import interleaved


def cpu_rates(*, rounds: int = 7, turn: float = 0.05) -> Rates:
    """The best of `rounds` for each, in float32 with as many threads as PyTorch uses.

    bytes: copying 64 MiB, read and written. products: matrices (1024, 1024). exponentials: of what fits into a cache,
    by the faster of `torch.exp` and `torch.exp2`. gammas: as weights, alpha ~ U[0.5, 2], by the faster of
    `torch._standard_gamma` and `sample_weights`; the floor is therefore no bound on the sampler, whose own table
    compares it.
    """
    generator = torch.Generator().manual_seed(0)
    source = torch.ones(2**24)
    target = torch.empty_like(source)
    square = torch.rand(1024, 1024, generator=generator)
    small = torch.rand(2**15 * torch.get_num_threads(), generator=generator)
    result = torch.empty_like(small)
    alpha = (0.5 + 1.5 * torch.rand(1000, 1, generator=generator)).expand(1000, 128).contiguous()

    def best(amount: float, *calls: Callable[[], object]) -> float:
        variants = {str(k): call for k, call in enumerate(calls)}
        times = interleaved(variants, rounds=rounds, device="cpu", turn=turn)
        return amount / min(min(found) for found in times.values())

    return Rates(
        bytes=best(2.0 * source.numel() * source.itemsize, lambda: target.copy_(source)),
        products=best(2.0 * 1024**3, lambda: torch.mm(square, square)),
        exponentials=best(small.numel(), lambda: torch.exp(small, out=result), lambda: torch.exp2(small, out=result)),
        gammas=best(
            alpha.numel(),
            lambda: torch._standard_gamma(alpha, generator=generator),
            lambda: sample_weights(1000, 128, generator=generator),
        ),
        one_unit=True,
    )
