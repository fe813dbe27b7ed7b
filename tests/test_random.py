"""Generators depend on what they are derived from, on nothing else, and leave the global streams alone."""

import hashlib
import itertools
import os
import random as python_random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from multimix import random

PARTS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), max_size=4)


def first(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


@pytest.fixture(autouse=True)
def global_streams_are_untouched():
    with torch.random.fork_rng(devices=[]):  # for the tests that seed
        torch.manual_seed(0)
        state = torch.get_rng_state()
        others = np.random.get_state()[1].copy(), python_random.getstate()  # noqa: NPY002
        yield
        torch.manual_seed(0)
        assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == others[0]).all()  # noqa: NPY002
    assert python_random.getstate() == others[1]


def test_seed_is_the_documented_hash() -> None:
    # A resumed run derives its generators again, so a change here would break every checkpoint.
    digest = hashlib.blake2b(b"(3, 12, 'augment')", digest_size=8).digest()
    assert random.derive_seed(3, 12, "augment") == int.from_bytes(digest, "little") // 2


@settings(max_examples=200, deadline=None, derandomize=True)
@given(PARTS, PARTS)
def test_seeds_tell_different_parts_apart(a, b) -> None:
    assert 0 <= random.derive_seed(*a) < 2**63
    assert (random.derive_seed(*a) == random.derive_seed(*b)) == (a == b)


def test_seeds_of_similar_parts_all_differ() -> None:
    parts = list(itertools.product(range(10), range(10), range(4), ["mix", "augment", "1"]))
    parts += [(1,), ("1",), (1, 1), (11,), ("1", 1), (1, "1"), ()]
    assert len({random.derive_seed(*p) for p in parts}) == len(parts)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, torch.tensor])
def test_integers_of_any_type_give_the_same_seed(kind) -> None:
    assert random.derive_seed(kind(3), "mix") == random.derive_seed(3, "mix")


@pytest.mark.parametrize("part", [0.5, None, b"mix", (1, 2)])
def test_other_parts_are_refused(part) -> None:
    with pytest.raises(TypeError, match="integer"):
        random.derive_seed(0, part)


def test_make_generator_is_seeded_with_the_derived_seed() -> None:
    generator = random.make_generator(3, 12, "mix")
    assert generator.initial_seed() == random.derive_seed(3, 12, "mix")
    assert generator.device == torch.device("cpu")
    assert first(generator) == first(torch.Generator().manual_seed(random.derive_seed(3, 12, "mix")))


def test_streams_of_successive_steps_are_unrelated() -> None:
    draws = torch.stack([torch.rand(200, generator=random.make_generator(0, step, "mix")) for step in range(200)])
    assert stats.kstest(draws.flatten().numpy(), "uniform").pvalue > 1e-4
    correlations = torch.corrcoef(draws).fill_diagonal_(0)
    assert correlations.abs().max() < 6 / 200**0.5


def test_default_stream_follows_manual_seed() -> None:
    draws = []
    for seed in (20, 21, 22, 21):
        torch.manual_seed(seed)
        torch.rand(seed)  # the position of the global stream does not matter
        draws.append([first(random.default_generator()) for _ in range(3)])
    assert draws[1] == draws[3]
    assert draws[1] != draws[2]
    assert len(set(draws[1])) == 3


def test_default_stream_leaves_the_global_one_alone() -> None:
    torch.manual_seed(30)
    state = torch.get_rng_state()
    first(random.default_generator())
    random.draw_seed(None)
    random.uniform(None)
    assert torch.equal(torch.get_rng_state(), state)


def test_default_streams_differ_between_ranks(monkeypatch) -> None:
    draws = [first(random.default_generator())]  # before the process joins the group
    for rank in (1, 2, 3):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        draws.append(first(random.default_generator()))
    assert len(set(draws)) == 4


def test_default_streams_of_ranks_differ_from_the_start_and_can_be_repeated(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    draws = []
    for rank in (0, 1, 2, 0):
        monkeypatch.setattr(random, "_defaults", {})  # as of another process
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        draws.append(first(random.default_generator()))
    assert len(set(draws)) == 3
    assert draws[3] == draws[0]


def test_fork_keeps_a_generator_that_is_on_the_device() -> None:
    generator = random.make_generator(1)
    assert random.fork(generator, "cpu") is generator
    assert random.fork(None, "cpu") is random.default_generator("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two kinds of device")
def test_fork_seeds_a_generator_on_another_device() -> None:
    forked = random.fork(random.make_generator(1), "cuda")
    assert forked.device.type == "cuda"
    assert forked.initial_seed() == int(random.draw_seed(random.make_generator(1)))
    assert random.fork(forked, "cuda") is forked


def test_drawn_seeds_are_spread_over_63_bits() -> None:
    generator = random.make_generator(2)
    seeds = [random.draw_seed(generator) for _ in range(2000)]
    assert all(seed.device.type == "cpu" and seed.dtype == torch.int64 and seed.shape == () for seed in seeds)
    values = np.array([int(seed) for seed in seeds], dtype=np.float64) / 2**63
    assert stats.kstest(values, "uniform").pvalue > 1e-4


def test_threads_that_are_lent_the_global_generator_take_turns() -> None:
    def draw(seed: int) -> torch.Tensor:
        with random.lending(seed):
            return torch.cat([torch.rand(1) for _ in range(200)])

    expected, state = [draw(seed) for seed in range(4)], torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            assert all(map(torch.equal, threads.map(draw, range(4)), expected))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads, which this is about
def test_a_process_that_is_forked_while_a_thread_is_lent_the_generator_can_be_lent_it_too() -> None:
    lent, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with random.lending(0):
            lent.set()
            go_on.wait(20)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(hold)
        assert lent.wait(20)
        if (child := os.fork()) == 0:
            signal.alarm(10)
            with random.lending(1):
                os._exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        go_on.set()
    assert code == 7


def test_uniform_is_uniform() -> None:
    generator = random.make_generator(3)
    values = [random.uniform(generator) for _ in range(2000)]
    assert all(isinstance(value, float) and 0 <= value < 1 for value in values)
    assert stats.kstest(values, "uniform").pvalue > 1e-4
