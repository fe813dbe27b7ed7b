"""The mixed loss, sampling, forward and backward: ours against the direct form.

The direct form is what the equations say and what one would write: draw the weights, mix the embeddings, classify
them, soft cross entropy. Its sampler is the faster of PyTorch's two (gamma variates, normalised).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnF

import multimix as mm

from .measure import interleaved, median_ratio, peak_memory

SIZES = ((512, 100, 1), (512, 100, 16), (2048, 1000, 1), (2048, 1000, 49))
"""(d, c, r) of the tables: CIFAR-100 with ResNet-18 and ImageNet with ResNet-50, plain and dense."""


class Row(NamedTuple):
    """One line of the table; times in milliseconds, memory in MiB."""

    d: int
    c: int
    r: int
    n: int
    b: int
    direct_ms: float
    ours_ms: float
    speedup: float
    direct_mib: float
    ours_mib: float


def run(
    *,
    n: int = 1000,
    b: int = 128,
    sizes: tuple[tuple[int, int, int], ...] | None = None,
    rounds: int = 15,
    device: str = "cpu",
) -> Iterator[Row]:
    """Rows as they are measured."""
    for d, c, r in sizes or SIZES:
        variants = _variants(d, c, r, n, b, device)
        # The largest case takes many seconds a call; a few rounds of it are as telling as many of a small one.
        size_rounds = max(3, min(rounds, int(rounds * 1e9 / (n * r * d * c))))
        seconds = interleaved(variants, rounds=size_rounds, device=device, turn=0.1)
        memory = {name: peak_memory(call, device=device) / 2**20 for name, call in variants.items()}
        yield Row(
            d, c, r, n, b,
            1e3 * statistics.median(seconds["direct"]),
            1e3 * statistics.median(seconds["ours"]),
            median_ratio(seconds["direct"], seconds["ours"]),
            memory["direct"],
            memory["ours"],
        )  # fmt: skip


def direct_weights(n: int, b: int, positions: int | None, generator: torch.Generator) -> Tensor:
    """The paper's weights by PyTorch's own gamma sampler."""
    shape = (n, b) if positions is None else (positions, n, b)
    alpha = 0.5 + 1.5 * torch.rand(*shape[:-1], 1, generator=generator, device=generator.device)
    gammas = torch._standard_gamma(alpha.expand(shape).contiguous(), generator=generator)
    return gammas / gammas.sum(-1, keepdim=True)


def direct_loss(
    embeddings: Tensor, labels: Tensor, head: torch.nn.Linear, n: int, generator: torch.Generator
) -> Tensor:
    """MultiMix as written in (6)-(8)."""
    lam = direct_weights(n, embeddings.shape[0], None, generator)
    targets = lam @ nnF.one_hot(labels, head.out_features).to(lam.dtype)
    return nnF.cross_entropy(head(lam @ embeddings), targets)


def direct_dense_loss(
    features: Tensor, labels: Tensor, head: torch.nn.Linear, n: int, generator: torch.Generator
) -> Tensor:
    """Dense MultiMix as written in (9)-(14), with GAP attention."""
    b, r, _ = features.shape
    lam = direct_weights(n, b, r, generator)
    with torch.no_grad():
        attention = nnF.relu(torch.einsum("brd,bd->br", features, features.mean(1)))
        attention = attention / attention.sum(1, keepdim=True)
        weighted = lam * attention.T[:, None]
        s = weighted.sum(-1)
        lam = weighted / s[..., None]
    targets = lam @ nnF.one_hot(labels, head.out_features).to(lam.dtype)
    log_p = head(lam @ features.transpose(0, 1)).log_softmax(-1)
    terms = -(targets * log_p).sum(-1)
    return ((terms * s).sum(1) / s.sum(1)).mean()


def _variants(d: int, c: int, r: int, n: int, b: int, device: str) -> dict[str, Callable[[], None]]:
    generator = torch.Generator(device).manual_seed(0)
    shape = (b, d) if r == 1 else (b, r, d)
    embeddings = torch.randn(shape, generator=generator, device=device).relu_().requires_grad_()
    labels = torch.randint(c, (b,), generator=generator, device=device)
    head = torch.nn.Linear(d, c, device=device)
    criterion = mm.MultiMix(n) if r == 1 else mm.DenseMultiMix(n)
    direct = direct_loss if r == 1 else direct_dense_loss

    def step(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            embeddings.grad = head.weight.grad = head.bias.grad = None
            loss().backward()

        return call

    return {
        "direct": step(lambda: direct(embeddings, labels, head, n, generator)),
        "ours": step(lambda: criterion(embeddings, labels, head, generator=generator)),
    }
