"""The examples of all devices as one mini-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from . import random


def process_count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@random.eager
def gather(examples: Tensor) -> Tensor:
    """The examples of all processes, in the order of their ranks, so that mixtures are of all of them.

    Gradients go back to the process that each example is from: with every process taking its own loss of all examples,
    and the gradients averaged as DistributedDataParallel does, the gradient is that of the mean of these losses. With
    one process, or none initialised, the examples themselves.

    Args:
        examples: (b, ...): clean logits (the least to send), embeddings, features, attention or targets. `b`, and
            whether they take a gradient, may differ between processes, the rest may not.

    Raises:
        ValueError: on all processes, where the rest differs.

    The criteria do this with `gather=True`; this is for losses of your own. Every process must call it equally often,
    or all wait for ever. It can be differentiated once only.

    >>> from multimix.functional import mixed_cross_entropy, sample_weights
    >>> embeddings, labels, head = torch.randn(8, 16), torch.arange(8), torch.nn.Linear(16, 10)
    >>> logits, labels = gather(head(embeddings)), gather(labels)
    >>> loss = mixed_cross_entropy(logits, labels, sample_weights(100, len(logits)))
    """
    if process_count() == 1:
        return examples
    if examples.ndim == 0:
        raise ValueError("examples must be (b, ...), got a scalar")
    counts, differentiated = _agreed(examples)
    if differentiated and not examples.requires_grad:
        # The backward pass of the others waits for this process, whose examples are frozen, or none.
        examples = examples.detach().requires_grad_()
    gathered: Tensor = _Gather.apply(examples, counts)
    return gathered


def _agreed(examples: Tensor) -> tuple[list[int], bool]:
    """How many examples each process has, and whether any process takes a gradient in them.

    What differs in more would abort the program in the next collective, or hang.
    """
    rest = random.derive_seed(str(examples.dtype), *examples.shape[1:])
    mine = torch.tensor([len(examples), rest, examples.requires_grad], device=examples.device)
    found = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    counts, rests, differentiated = torch.stack(found).T.tolist()
    if len(set(rests)) > 1:
        raise ValueError(
            f"examples of all processes must agree in all but their number, got {examples.dtype} of shape "
            f"{tuple(examples.shape)} on rank {dist.get_rank()}, and others elsewhere: pad sequences to one length"
        )
    return list(map(int, counts)), any(differentiated)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, examples: Tensor, counts: list[int]) -> Tensor:
        # Collectives take equal shapes.
        padded = examples.new_zeros(max(counts), *examples.shape[1:])
        padded[: len(examples)] = examples
        parts = [torch.empty_like(padded) for _ in counts]
        # As bytes: not every type can be sent, such as labels in int16.
        dist.all_gather([part.view(torch.uint8) for part in parts], padded.view(torch.uint8))
        ctx.start, ctx.count = sum(counts[: dist.get_rank()]), len(examples)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.start + ctx.count], None
