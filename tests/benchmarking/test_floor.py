"""The least work of the sampled loss: what PyTorch counts of its matrix products, and loops count of the rest."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from multimix.benchmarking.floor import Rates, Work, gpu_rates, sampled_loss, seconds


@pytest.mark.parametrize(("r", "n", "b", "c"), [(1, 7, 5, 3), (3, 10, 4, 9)])
def test_products_are_those_of_mixing_and_its_gradient(r, n, b, c) -> None:
    logits, lam = torch.randn(r, b, c, requires_grad=True), torch.rand(r, n, b)
    with FlopCounterMode(display=False) as counter:
        mixed = lam @ logits
        mixed.backward(torch.ones_like(mixed))
    work = sampled_loss(positions=r, n=n, b=b, c=c)
    assert work.products == counter.get_total_flops()
    assert work.exponentials == mixed.numel()
    assert work.gammas == lam.numel()
    assert work.bytes == 4 * (logits.numel() + logits.grad.numel())


def test_memory_is_independent_of_the_number_of_mixtures_and_the_rest_proportional() -> None:
    few, many = (sampled_loss(positions=4, n=n, b=8, c=5, itemsize=2) for n in (10, 70))
    assert many.bytes == few.bytes
    assert many[1:] == tuple(7 * amount for amount in few[1:])
    assert few.gammas == 4 * 10 * 8


def test_the_slowest_part_counts() -> None:
    for part in range(4):
        amounts = [1.0, 1.0, 1.0, 1.0]
        amounts[part] = 8.0
        assert seconds(Work(*amounts), Rates(2.0, 2.0, 2.0, 2.0)) == 4.0


def test_rates_of_known_devices() -> None:
    for name, precision in itertools.product(["NVIDIA A100-SXM4-80GB", "NVIDIA H200"], ["bf16", "tf32", "tf32x3"]):
        assert all(rate > 1e9 for rate in gpu_rates(name, precision)[:4])
    bf16, tf32x3 = gpu_rates("NVIDIA H100 80GB HBM3", "bf16"), gpu_rates("NVIDIA H100 80GB HBM3", "tf32x3")
    assert bf16 is not None
    assert tf32x3 is not None
    assert bf16.products > 5 * tf32x3.products
    assert gpu_rates("GeForce GTX 1080", "tf32") is None
