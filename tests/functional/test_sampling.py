"""Interpolation weights are exact Dirichlet draws, on the simplex, from explicit generators."""

import itertools
import math
import os
import random
import signal
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from tests.functional.oracles import rng

from multimix.functional import _gamma, sample_weights, sampling

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# A correct sampler fails a test at this level once in ten thousand seeds; the seeds are fixed.
SIGNIFICANCE = 1e-4


def dirichlet_moment(powers: tuple[int, ...], alpha: float, m: int) -> float:
    """E prod_i lambda_i^powers_i = prod_i alpha^(powers_i) / (m alpha)^(sum powers), in rising factorials."""

    def rising(x: float, k: int) -> float:
        return math.prod(x + i for i in range(k))

    return math.prod(rising(alpha, k) for k in powers) / rising(m * alpha, sum(powers))


@cache
def draws(n: int, m: int, alpha: float | tuple[float, float]) -> torch.Tensor:
    return sample_weights(n, m, alpha=alpha, generator=rng(1), dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5, 0.9, 1.0, 1.5, 2.0, 10.0, (0.5, 2.0), (0.05, 1.0), (1.0, 1.5)])
@pytest.mark.parametrize("powers", [(1,), (2,), (1, 1), (3,), (2, 1), (1, 1, 1)])
def test_moments(alpha, powers) -> None:
    m, n = 5, 40_000
    lam = draws(n, m, alpha)
    if isinstance(alpha, tuple):  # the mean over alpha ~ U[low, high]
        low, high = alpha
        expected = integrate.quad(lambda a: dirichlet_moment(powers, a, m), low, high)[0] / (high - low)
    else:
        expected = dirichlet_moment(powers, alpha, m)
    # All choices of columns are exchangeable; their mean per row is one independent sample.
    choices = list(itertools.permutations(range(m), len(powers)))
    per_row = sum(math.prod(lam[:, i] ** k for i, k in zip(choice, powers, strict=True)) for choice in choices)
    per_row = per_row / len(choices)
    standard_error = float(per_row.std()) / math.sqrt(n)
    assert abs(float(per_row.mean()) - expected) < 5 * standard_error + 1e-12


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9, 1.0, 1.5, 2.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [2, 7])
def test_marginals_are_beta(alpha, dtype, m) -> None:
    lam = sample_weights(20_001, m, alpha=alpha, generator=rng(2), dtype=dtype).double().numpy()
    beta = stats.beta(alpha, (m - 1) * alpha)
    for drawn in (lam[:, 0], lam[:, m - 1]):
        if dtype == torch.float64:
            assert stats.kstest(drawn, beta.cdf).pvalue > SIGNIFICANCE
        else:  # float32 has ties at 1 when alpha is small, so the two halves are tested apart
            lower = drawn[drawn < 0.5]
            assert stats.kstest(lower, lambda x: beta.cdf(x) / beta.cdf(0.5)).pvalue > SIGNIFICANCE
            assert stats.binomtest(len(lower), len(drawn), beta.cdf(0.5)).pvalue > SIGNIFICANCE


def test_range_of_alpha_is_drawn_for_every_row() -> None:
    # Marginals of a mixture over alpha; one draw of alpha for all rows, or for a block of rows, would fail.
    low, high, m, grid = 0.1, 3.0, 3, np.linspace(1e-6, 1 - 1e-6, 2001)
    alphas = np.linspace(low, high, 401)
    cdf = np.trapezoid([stats.beta(a, (m - 1) * a).cdf(grid) for a in alphas], alphas, axis=0) / (high - low)
    lam = sample_weights(20_000, m, alpha=(low, high), generator=rng(3), dtype=torch.float64).numpy()
    test = stats.kstest(lam[:, 1], lambda x: np.interp(x, grid, cdf))
    assert test.pvalue > SIGNIFICANCE


def gammas(shapes: torch.Tensor, m: int, few: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Variates (rows, m) of the shapes (rows,), in parts; more than `few` rejected ones are drawn again in bulk."""
    monkeypatch.setattr(_gamma, "_FEW", few)
    out = torch.empty(len(shapes), m, dtype=shapes.dtype)
    _gamma.gamma_(out, shapes[:, None], _gamma.Scratch(out.numel() // 3, out.dtype), rng(12))
    return (out * (shapes[:, None] - 1 / 3)).double().numpy()


@pytest.mark.parametrize("shape", [0.5, 0.51, 0.6, 0.75, 1.0, 1.3, 2.0, 5.0, 1000.0])
@pytest.mark.parametrize(("few", "dtype"), [(0, torch.float64), (30, torch.float32), (10**9, torch.float32)])
def test_variates_in_bulk_are_gamma(shape, few, dtype, monkeypatch) -> None:
    # The method is stated for shapes of at least 1; it is used from 1/2.
    drawn = gammas(torch.full((2000,), shape, dtype=dtype), 100, few, monkeypatch).ravel()
    assert stats.kstest(drawn, stats.gamma(shape).cdf).pvalue > SIGNIFICANCE
    # The tails, which that test hardly sees: as many beyond rare quantiles as there should be.
    for q in (1e-4, 1e-3, 1 - 1e-3, 1 - 1e-4):
        below = int((drawn < stats.gamma(shape).ppf(q)).sum())
        assert stats.binomtest(below, drawn.size, q).pvalue > SIGNIFICANCE


def test_every_row_keeps_its_own_alpha_when_draws_are_rejected(monkeypatch) -> None:
    # One draw in twenty is rejected and drawn again; with another row's alpha, weights would hardly look different.
    alphas = [0.5, 200.0]
    for few in (0, 10**9):
        drawn = gammas(torch.tensor(alphas, dtype=torch.float64).repeat(30_000), 5, few, monkeypatch)
        for i, alpha in enumerate(alphas):
            assert stats.kstest(drawn[i::2].ravel(), stats.gamma(alpha).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("twice_shape", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_integer_variates_are_gamma(twice_shape, dtype) -> None:
    out = torch.empty(1000, 101, dtype=dtype)
    _gamma.half_integer_gamma_(out, twice_shape, _gamma.Scratch(out.numel() // 3, dtype), rng(14))
    assert stats.kstest(out.double().numpy().ravel(), stats.gamma(twice_shape / 2).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("shapes", [(0.05, 0.05), (0.49, 0.7), (0.3, 1.0), (3.0, 3.0)])
def test_logs_of_variates_are_those_of_gamma_ones(shapes) -> None:
    rows, m = 4000, 5
    out = torch.empty(rows, m, dtype=torch.float64)
    alpha = torch.tensor(shapes, dtype=torch.float64).repeat(rows // 2)[:, None]
    _gamma.log_gamma_(out, alpha, _gamma.Scratch(out.numel() // 3, out.dtype), rng(15))
    for i, shape in enumerate(shapes):
        # The constant of a row is (shape + 1 - 1/3), or without the boost (shape - 1/3).
        scale = shape + (shape < 0.5) - 1 / 3
        drawn = scale * out[i::2].exp().numpy().ravel()
        assert stats.kstest(drawn, stats.gamma(shape).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 3.0])
def test_the_accelerator_s_variates_are_gamma_too(alpha: float) -> None:
    rows = torch.full((4000, 1), alpha, dtype=torch.float64)
    drawn = sampling._log_gamma_unsynchronized(rows, 5, rng(13)).exp().flatten().numpy()
    assert stats.kstest(drawn, stats.gamma(alpha).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("alpha", [0.1, 0.7, 1.5, (0.5, 2.0)])
def test_the_accelerator_s_weights_are_dirichlet_too(alpha) -> None:
    n, m = 20_000, 4
    low, high = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    lam = torch.empty(n, m, dtype=torch.float64)
    sampling._draw_unsynchronized(lam, m, low, high, rng(16))
    assert_on_simplex(lam)
    squares = (lam**2).mean(1)
    width = max(high - low, 1e-9)
    expected = integrate.quad(lambda a: dirichlet_moment((2,), a, m), low, low + width)[0] / width
    assert abs(float(squares.mean()) - expected) < 5 * float(squares.std()) / math.sqrt(n)


def test_rows_and_positions_are_independent() -> None:
    lam = sample_weights(3000, 4, alpha=0.7, positions=6, generator=rng(4), dtype=torch.float64)
    assert lam.shape == (6, 3000, 4)
    centred = (lam - 0.25) / lam.std()
    bound = 5 / math.sqrt(3000)
    for first, second in itertools.combinations(range(6), 2):
        assert float((centred[first, :, 0] * centred[second, :, 0]).mean().abs()) < bound
    for lag in (1, 2):
        assert float((centred[0, :-lag, 0] * centred[0, lag:, 0]).mean().abs()) < bound


@pytest.mark.parametrize("m", [1, 2, 3])
def test_subsets_are_uniform(m) -> None:
    b, n = 5, 20_000
    lam = sample_weights(n, b, m=m, alpha=1.3, generator=rng(5))
    nonzero = lam > 0
    assert (nonzero.sum(1) == m).all()
    codes = (nonzero.long() * 2 ** torch.arange(b)).sum(1)
    counts = torch.bincount(codes, minlength=2**b)
    counts = counts[[sum(2**i for i in subset) for subset in itertools.combinations(range(b), m)]]
    assert counts.sum() == n
    assert stats.chisquare(counts.numpy()).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("m", [2, 4])
def test_weights_on_a_subset_are_dirichlet(m) -> None:
    lam = sample_weights(20_000, 9, m=m, alpha=0.6, generator=rng(6), dtype=torch.float64)
    present = lam[lam > 0].view(-1, m).numpy()
    for column in (0, m - 1):  # m values on the simplex depend on one another; one column does not
        assert stats.kstest(present[:, column], stats.beta(0.6, (m - 1) * 0.6).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("alpha", [0.01, 1e-4, 1e-12, 1e-30, 1e-300, (1e-4, 0.01), 1e4, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [None, 3])
def test_extreme_alpha_stays_finite_and_on_the_simplex(alpha, dtype, m) -> None:
    lam = sample_weights(500, 16, m=m, alpha=alpha, generator=rng(7), dtype=dtype)
    assert lam.dtype == dtype
    assert_on_simplex(lam)


@pytest.mark.parametrize("alpha", [1e-4, 1e-30, 1e-300])
def test_tiny_alpha_is_one_hot_at_a_uniform_place(alpha) -> None:
    lam = sample_weights(10_000, 8, alpha=alpha, generator=rng(8))
    assert float((lam.amax(1) > 0.999).float().mean()) > 0.99
    assert stats.chisquare(torch.bincount(lam.argmax(1), minlength=8).numpy()).pvalue > SIGNIFICANCE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 40),
    b=st.integers(1, 40),
    fraction=st.floats(0, 1),
    low=st.floats(1e-3, 20),
    width=st.floats(0, 20),
    positions=st.none() | st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**63 - 1),
)
def test_shape_and_simplex(n, b, fraction, low, width, positions, dtype, seed) -> None:
    m = 1 + round(fraction * (b - 1))
    lam = sample_weights(n, b, m, (low, low + width), positions, rng(seed), dtype=dtype)
    assert lam.shape == ((n, b) if positions is None else (positions, n, b))
    assert lam.dtype == dtype
    assert_on_simplex(lam)
    assert ((lam > 0).sum(-1) <= m).all()
    if low >= 0.5 and dtype in (torch.float32, torch.float64):
        assert ((lam > 0).sum(-1) == m).all()


@pytest.mark.parametrize("block", [1, 10, 64, 1000])
def test_blocks_are_put_together(monkeypatch, block) -> None:
    monkeypatch.setattr(sampling, "_BLOCK_CPU", block)
    lam = sample_weights(101, 7, m=4, alpha=1.2, positions=5, generator=rng(9))
    assert_on_simplex(lam)
    assert ((lam > 0).sum(-1) == 4).all()
    rows = lam.view(-1, 7)
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)  # no row left out or written twice


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(("m", "alpha"), [(7, (0.5, 2.0)), (3, (0.5, 2.0)), (7, 1.0), (7, (0.1, 1.0))])
def test_weights_do_not_depend_on_the_number_of_threads(monkeypatch, mode, m, alpha) -> None:
    monkeypatch.setattr(sampling, "_PART", 64)
    monkeypatch.setattr(sampling, "_BLOCK_CPU", 1000)
    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with mode():
                drawn.append(sample_weights(101, 7, m, alpha, positions=3, generator=rng(17)))
            assert torch.get_num_threads() == threads
            assert_on_simplex(drawn[-1].clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_draws_the_same(monkeypatch) -> None:
    monkeypatch.setattr(sampling, "_PART", 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        here = sample_weights(101, 7, generator=rng(18))
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # threads of PyTorch's that the fork has not would be waited for
            os._exit(0 if torch.equal(here, sample_weights(101, 7, generator=rng(18))) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


def test_no_two_parts_are_alike(monkeypatch) -> None:
    monkeypatch.setattr(sampling, "_PART", 35)
    lam = sample_weights(500, 7, positions=2, generator=rng(19)).view(-1, 7)
    assert len(lam.unique(dim=0)) == 1000


def test_a_generator_decides_everything_and_advances() -> None:
    generator = rng(10)
    first, second = (sample_weights(20, 6, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    again = rng(10)
    assert torch.equal(first, sample_weights(20, 6, generator=again))
    assert torch.equal(second, sample_weights(20, 6, generator=again))


@pytest.mark.parametrize("generator", [None, 11])
@pytest.mark.parametrize("m", [None, 2])
@pytest.mark.parametrize("alpha", [(0.5, 2.0), 1.0])
def test_global_rng_is_untouched(generator, m, alpha) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    sample_weights(50, 6, m=m, alpha=alpha, generator=None if generator is None else rng(generator))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_default_stream_follows_manual_seed_and_differs_between_calls() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(100)
        sample_weights(5, 4)
        torch.manual_seed(101)
        first, second = sample_weights(5, 4), sample_weights(5, 4)
        torch.manual_seed(102)
        other = sample_weights(5, 4)
        torch.manual_seed(101)
        torch.rand(3)  # use of the global stream changes nothing
        again = sample_weights(5, 4)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(first, again)


def assert_on_simplex(lam: torch.Tensor) -> None:
    exact = lam.double()
    assert torch.isfinite(exact).all()
    assert (exact >= 0).all()
    assert ((exact.sum(-1) - 1).abs() <= 4 * torch.finfo(lam.dtype).eps).all()
