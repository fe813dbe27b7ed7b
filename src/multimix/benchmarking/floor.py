"""The least that the sampled loss must do, and the time that takes at the rates of a device: its roofline.

Rates of a GPU are its vendor's; those of a CPU are measured (`rates`).

For every one of r positions and n mixtures of b examples in c classes: b gamma variates and c exponentials; the mixed
logits and the gradient, 2 b c operations each. What class indices contribute are b additions, which are left out.
Of memory, the logits are read once and a gradient of the same size and type is written once: nothing
depends on n there, since weights and mixed logits need not leave the chip.
"""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """Amounts: bytes moved, multiplications and additions of matrix products, exponentials, gamma variates."""

    bytes: float
    products: float
    exponentials: float
    gammas: float


class Rates(NamedTuple):
    """What a device does of each in a second, if it does nothing else."""

    bytes: float
    products: float
    exponentials: float
    gammas: float
    one_unit: bool = False
    """Whether products, exponentials and gammas share one unit, as in the cores of a CPU."""


def sampled_loss(*, positions: int, n: int, b: int, c: int, itemsize: int = 4) -> Work:
    """Loss and gradient in the logits (positions, b, c), of `itemsize` bytes each.

    >>> sampled_loss(positions=49, n=1000, b=128, c=1000, itemsize=2)  # Dense MultiMix, ResNet-50 on ImageNet, bf16
    Work(bytes=25088000.0, products=25088000000.0, exponentials=49000000.0, gammas=6272000.0)
    """
    mixtures = positions * n
    return Work(
        bytes=2.0 * positions * b * c * itemsize,
        products=mixtures * 4.0 * b * c,
        exponentials=float(mixtures * c),
        gammas=float(mixtures * b),
    )


def linear(*, rows: int, d: int, c: int, itemsize: int = 4) -> Work:
    """A linear classifier on `rows` embeddings: the logits, and both gradients.

    >>> linear(rows=128, d=2048, c=1000).products
    1572864000.0
    """
    return Work(bytes=2.0 * itemsize * (rows * d + d * c), products=6.0 * rows * d * c, exponentials=0.0, gammas=0.0)


def together(*parts: Work) -> Work:
    """The sum of all parts."""
    return Work(*map(sum, zip(*parts, strict=True)))


def seconds(work: Work, rates: Rates) -> float:
    """The least time: units of the device that can work at once do, and the slowest of them counts.

    >>> work = sampled_loss(positions=49, n=1000, b=128, c=1000, itemsize=2)
    >>> f"{1e6 * seconds(work, gpu_rates('NVIDIA A100-SXM4-80GB', 'bf16')):.0f} microseconds"
    '80 microseconds'
    """
    arithmetic = work.products / rates.products, work.exponentials / rates.exponentials, work.gammas / rates.gammas
    return max(work.bytes / rates.bytes, sum(arithmetic) if rates.one_unit else max(arithmetic))


class Gpu(NamedTuple):
    """What a vendor says of one: streaming multiprocessors, their clock in Hz, and rates in a second."""

    processors: int
    clock: float
    lanes: int
    """Ordinary operations of a processor in a cycle."""
    bytes: float
    products: dict[str, float]


# Vendor's figures of the SXM models, without sparsity, at the highest clock.
GPUS = {
    "A100": Gpu(108, 1.41e9, 64, 2.04e12, {"bf16": 312e12, "tf32": 156e12}),
    "H100": Gpu(132, 1.98e9, 128, 3.35e12, {"bf16": 989e12, "tf32": 494e12}),
    "H200": Gpu(132, 1.98e9, 128, 4.8e12, {"bf16": 989e12, "tf32": 494e12}),
}
# Special functions (exp2, log2, sqrt) of a processor in a cycle.
_SPECIAL = 16
# Of a gamma variate, alpha in [1/2, 2], counted in the source of the kernel: half of a block of Philox4x32-7, which is
# seven rounds of six operations, and one attempt by a warped exponential variate, about thirty.
_OPERATIONS_OF_A_GAMMA = 51


def gpu_rates(name: str, precision: str) -> Rates | None:
    """Rates of a GPU by its name as PyTorch reports it, from its vendor's figures; None for one not listed.

    `precision` of the products is "bf16", "tf32", or "tf32x3", which is three tf32 products.
    """
    gpu = next((gpu for part, gpu in GPUS.items() if part in name), None)
    if gpu is None:
        return None
    products = gpu.products["tf32"] / 3 if precision == "tf32x3" else gpu.products[precision]
    cycles = gpu.processors * gpu.clock
    return Rates(gpu.bytes, products, cycles * _SPECIAL, cycles * gpu.lanes / _OPERATIONS_OF_A_GAMMA)
