"""Rates of the CPU, and what they are for."""

import torch

from multimix.benchmarking import floor
from multimix.benchmarking.rates import cpu_rates


def test_rates_are_those_of_a_computer() -> None:
    before = torch.get_rng_state()
    rates = cpu_rates(rounds=2, turn=0.0)
    assert rates.one_unit
    # Between a slow phone and a large server, whatever else it is doing.
    assert 1e6 < rates.bytes < 1e13
    assert 1e7 < rates.products < 1e14
    assert 1e5 < rates.exponentials < 1e13
    assert 1e4 < rates.gammas < 1e12
    assert torch.equal(torch.get_rng_state(), before)


def test_one_unit_does_one_thing_after_the_other_while_memory_is_read() -> None:
    work = floor.Work(8.0, 1.0, 2.0, 3.0)
    assert floor.seconds(work, floor.Rates(2.0, 1.0, 1.0, 1.0, one_unit=True)) == 6.0
    assert floor.seconds(work, floor.Rates(1.0, 1.0, 1.0, 1.0, one_unit=True)) == 8.0
    assert floor.seconds(work, floor.Rates(9.0, 1.0, 1.0, 1.0)) == 3.0
