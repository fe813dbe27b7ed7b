"""The mixed loss, sampling, forward and backward: ours against the direct form, plain, compiled and chunked.

The direct form is what the equations say and what one would write: draw the weights, mix the embeddings, classify
them, soft cross entropy. PyTorch's `linear_cross_entropy`, of 2.13 and later, does the last two in chunks. The sampler
is the faster of PyTorch's two (gamma variates, normalised).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as nnF

import multimix as mm

from ..errors import first_line
from ..kernels import triton_launch
from . import floor
from .measure import Ratio, clock, interleaved, peak_memory, ratio

SIZES = ((512, 100, 1), (512, 100, 16), (2048, 1000, 1), (2048, 1000, 49))
"""(d, c, r) of the tables: CIFAR-100 with ResNet-18 and ImageNet with ResNet-50, plain and dense."""
SIZES_CUDA = (*SIZES, (384, 1000, 196))
"""With ImageNet with ViT-S/16, too large for most CPUs."""
DIRECT, COMPILED, CHUNKED, OURS = "direct", "direct, compiled", "direct, chunked", "ours"
LARGE = 1e10
"""Products of the direct form's classifier, n r d c, beyond which a call takes many seconds on a CPU."""
LARGE_SECONDS = 40.0
"""What all rounds of so large a size may take together, so that `multimix bench` fits in two minutes."""
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    d: int
    c: int
    r: int
    n: int
    b: int
    precision: Precision
    """Of embeddings and matrix products; bfloat16 by autocast."""
    variant: str
    milliseconds: float | None = None
    faster_than_direct: Ratio | None = None
    """Time of the direct form over this one's."""
    faster_than_compiled: Ratio | None = None
    mib: float | None = None
    """Memory allocated at the peak beyond the inputs and their gradients, which every form returns."""
    over_floor: float | None = None
    """Time over the least possible (`floor`), classifier included; None where the device's rates are not known."""
    why_not: str = ""
    """Why it could not be measured."""


def run(
    *,
    n: int = 1000,
    b: int = 128,
    sizes: tuple[tuple[int, int, int], ...] | None = None,
    rounds: int = 15,
    device: str = "cpu",
    compiled: bool = True,
    precisions: tuple[Precision, ...] = ("float32",),
    rates: Mapping[Precision, floor.Rates] | None = None,
) -> Iterator[Row]:
    """Rows as they are measured, those of one size together.

    Args:
        compiled: the direct form by `torch.compile` too; compiling takes many seconds a size and is not timed.
        rates: of the device, for the last column.
    """
    for d, c, r in sizes or (SIZES_CUDA if device == "cuda" else SIZES):
        for precision in precisions:
            # What is compiled whole draws from the global generators: they are as before afterwards.
            with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []):
                rows = _measure(d, c, r, n, b, precision, rounds, device, compiled, (rates or {}).get(precision))
            yield from rows


def _measure(
    d: int, c: int, r: int, n: int, b: int, precision: Precision, rounds: int, device: str, compiled: bool,
    rates: floor.Rates | None,
) -> list[Row]:  # fmt: skip
    variants = _variants(d, c, r, n, b, precision, device, compiled)
    itemsize = 2 if precision == "bfloat16" else 4
    gradients = r * b * d * itemsize + 4 * (d * c + c)
    memory, failed, first = {}, {}, {}
    now = clock(device)
    for name, call in list(variants.items()):
        try:
            # On a GPU the first of all calls makes the library's workspace, which stays.
            if name == COMPILED or device == "cuda":
                call()
            start = now()
            memory[name] = (peak_memory(call, device=device) - gradients) / 2**20
            first[name] = now() - start
        except Exception as error:  # no compiler, too little memory, or a kernel that the device cannot take
            failed[name] = first_line(error)
            del variants[name]
    size = n * r * d * c
    if device == "cpu" and size > LARGE:
        # A few rounds are as telling as many of a small size, and the calls that measured the memory are the first.
        rounds = max(2, min(rounds, 3, int(LARGE_SECONDS / max(sum(first.values()), 1e-9))))
        later = interleaved(variants, rounds=rounds - 1, device=device, warm=True)
        times = {name: [first[name], *later[name]] for name in variants}
    else:
        rounds = max(3, min(rounds, int(rounds * 1e9 / size))) if device == "cpu" else rounds
        times = interleaved(variants, rounds=rounds, device=device, turn=0.1)
    work = floor.together(
        floor.sampled_loss(positions=r, n=n, b=b, c=c, itemsize=itemsize),
        floor.linear(rows=r * b, d=d, c=c, itemsize=itemsize),
    )

    def row(name: str) -> Row:
        if name in failed:
            return Row(d, c, r, n, b, precision, name, why_not=failed[name])
        seconds = statistics.median(times[name])
        return Row(
            d, c, r, n, b, precision, name,
            1e3 * seconds,
            ratio(times[DIRECT], times[name]) if DIRECT in times else None,
            ratio(times[COMPILED], times[name]) if COMPILED in times else None,
            memory[name],
            seconds / floor.seconds(work, rates) if rates else None,
        )  # fmt: skip

    return [row(name) for name in (*times, *failed)]


def direct_weights(
    n: int, b: int, positions: int | None, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """The paper's weights by PyTorch's own gamma sampler."""
    shape = (n, b) if positions is None else (positions, n, b)
    alpha = 0.5 + 1.5 * torch.rand(*shape[:-1], 1, generator=generator, device=device)
    gammas = torch._standard_gamma(alpha.expand(shape).contiguous(), generator=generator)
    return gammas / gammas.sum(-1, keepdim=True)


def direct_loss(
    embeddings: Tensor, labels: Tensor, head: torch.nn.Linear, n: int, generator: torch.Generator | None
) -> Tensor:
    """MultiMix as written in (6)-(8)."""
    mixed, targets = _mixed(embeddings, labels, head.out_features, n, generator)
    return nnF.cross_entropy(head(mixed), targets)


def chunked_loss(
    embeddings: Tensor, labels: Tensor, head: torch.nn.Linear, n: int, generator: torch.Generator | None
) -> Tensor:
    """`direct_loss` without all mixed logits in memory at once, by PyTorch's own operator."""
    mixed, targets = _mixed(embeddings, labels, head.out_features, n, generator)
    weight, bias = head.weight.to(mixed.dtype), head.bias.to(mixed.dtype)
    options = torch.nn.LinearCrossEntropyOptions()
    return nnF.linear_cross_entropy(mixed, weight, targets.to(mixed.dtype), linear_bias=bias, options=options)


def _mixed(
    embeddings: Tensor, labels: Tensor, classes: int, n: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    lam = direct_weights(n, embeddings.shape[0], None, generator, embeddings.device)
    return lam @ embeddings, lam @ nnF.one_hot(labels, classes).to(lam.dtype)


def direct_dense_loss(
    features: Tensor, labels: Tensor, head: torch.nn.Linear, n: int, generator: torch.Generator | None
) -> Tensor:
    """Dense MultiMix as written in (9)-(14), with GAP attention."""
    b, r, _ = features.shape
    lam = direct_weights(n, b, r, generator, features.device)
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


def _variants(
    d: int, c: int, r: int, n: int, b: int, precision: Precision, device: str, compiled: bool
) -> dict[str, Callable[[], None]]:
    generator = torch.Generator(device).manual_seed(0)
    shape = (b, d) if r == 1 else (b, r, d)
    embeddings = torch.randn(shape, generator=generator, device=device).relu_()
    embeddings = embeddings.to(getattr(torch, precision)).requires_grad_()
    labels = torch.randint(c, (b,), generator=generator, device=device)
    head = torch.nn.Linear(d, c, device=device)
    criterion = mm.MultiMix if r == 1 else mm.DenseMultiMix
    direct: Callable[..., Tensor] = direct_loss if r == 1 else direct_dense_loss

    def step(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"):
                value = loss()
            value.backward()
            embeddings.grad = head.weight.grad = head.bias.grad = None

        return call

    def ours(**how: Any) -> Callable[[], None]:
        # On the host, as a training loop has it: a seed drawn on the device would have to be waited for.
        loss, on_host = criterion(n, **how), torch.Generator("cpu").manual_seed(0)
        return step(lambda: loss(embeddings, labels, head, generator=on_host))

    found = {DIRECT: step(lambda: direct(embeddings, labels, head, n, generator))}
    if compiled:
        torch.compiler.reset()  # otherwise another size is compiled for any size
        whole = torch.compile(direct, fullgraph=True)
        found[COMPILED] = step(lambda: whole(embeddings, labels, head, n, None))
    if r == 1 and hasattr(nnF, "linear_cross_entropy"):
        found[CHUNKED] = step(lambda: chunked_loss(embeddings, labels, head, n, generator))
    found[OURS] = ours()
    if device == "cuda" and not triton_launch.why_not(torch.empty(r, b, c, device=device)):
        found[f"{OURS}, triton"] = ours(implementation="triton")
    return found
