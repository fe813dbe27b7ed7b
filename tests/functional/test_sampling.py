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
from multimix.functional._gamma import marsaglia_tsang, warped_exponential

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


def constant(draw: object, shape: float) -> float:
    """What the method's variates of a shape have to be multiplied by."""
    if draw is marsaglia_tsang.gamma_:
        return shape - 1 / 3
    return float(warped_exponential.Warp.of(torch.tensor([shape], dtype=torch.float64)).c)


def assert_gamma(drawn: np.ndarray, shape: float) -> None:
    assert stats.kstest(drawn, stats.gamma(shape).cdf).pvalue > SIGNIFICANCE
    # The tails, which that test hardly sees: as many beyond rare quantiles as there should be.
    for q in (1e-4, 1e-3, 1 - 1e-3, 1 - 1e-4):
        below = int((drawn < stats.gamma(shape).ppf(q)).sum())
        assert stats.binomtest(below, drawn.size, q).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("shape", [0.5, 0.51, 0.6, 0.75, 1.0, 1.3, 2.0, 5.0, 1000.0])
@pytest.mark.parametrize(("few", "dtype"), [(0, torch.float64), (30, torch.float32), (10**9, torch.float32)])
def test_variates_by_marsaglia_and_tsang_are_gamma(shape, few, dtype, monkeypatch) -> None:
    # The method is stated for shapes of at least 1, and used from 1/2. It redraws more than `few` rejected ones itself.
    monkeypatch.setattr(marsaglia_tsang, "_FEW", few)
    out, shapes = torch.empty(2000, 100, dtype=dtype), torch.full((2000, 1), shape, dtype=dtype)
    marsaglia_tsang.gamma_(out, shapes, _gamma.Scratch(out.numel() // 3, dtype), rng(12))
    assert_gamma((out.double() * constant(marsaglia_tsang.gamma_, shape)).numpy().ravel(), shape)


@pytest.mark.parametrize("alpha", [1e7, 1e9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_concentrations_still_vary_as_they_should(alpha, dtype) -> None:
    b = 16
    lam = sample_weights(2000, b, alpha=alpha, generator=rng(13), dtype=dtype).double()
    deviations = (lam[:, ::4] * b - 1) * (alpha / (1 - 1 / b)) ** 0.5  # nearly normal; 4 of 16 hardly depend on another
    assert stats.kstest(deviations.numpy().ravel(), stats.norm.cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("shape", [0.5, 0.51, 0.75, 0.95, 1.0, 1.05, 1.3, 1.7, 1.99, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_variates_by_a_warped_exponential_are_gamma(shape, dtype) -> None:
    out, shapes = torch.empty(9999, 101, dtype=dtype), torch.full((9999, 1), shape, dtype=dtype)
    warped_exponential.gamma_(out, shapes, _gamma.Scratch(out.numel() // 3, dtype), rng(12))
    assert_gamma(constant(warped_exponential.gamma_, shape) * out.double().numpy().ravel(), shape)


def test_the_far_tail_of_the_warped_exponential_is_there() -> None:
    shape, q = 1.3, 1 - 1e-5
    out, shapes = torch.empty(30_000, 101, dtype=torch.float64), torch.full((30_000, 1), shape, dtype=torch.float64)
    warped_exponential.gamma_(out, shapes, _gamma.Scratch(out.numel() // 3, out.dtype), rng(12))
    beyond = int((constant(warped_exponential.gamma_, shape) * out > stats.gamma(shape).ppf(q)).sum())
    assert stats.binomtest(beyond, out.numel(), 1 - q).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("shape", [0.5, 0.75, 1.3, 2.0])
def test_rejection_makes_up_for_a_bad_fit(shape, monkeypatch) -> None:
    # With the good one so few are rejected that it would hardly be seen if none were.
    constants = [row[0] for row in warped_exponential.FIT]
    bad = (constants[0], constants[1] + 0.05, constants[2] + 0.5, constants[3])
    fit = [(constant, *row[1:]) for constant, row in zip(bad, warped_exponential.FIT, strict=True)]
    monkeypatch.setattr(warped_exponential, "FIT", fit)
    shapes = torch.full((9999, 1), shape, dtype=torch.float64)
    warp = warped_exponential.Warp.of(shapes[:1, 0])
    e = torch.from_numpy(np.geomspace(1e-8, warped_exponential.CUT + warped_exponential.LONGEST, 4001))
    ratio = warp.t_and_ratio(e / warp.s)[1] * warped_exponential.HIGH
    high, least = float(ratio.max()), float(ratio[e < warped_exponential.CUT].min())
    sure = least / high
    assert high > 1.05 * least
    monkeypatch.setattr(warped_exponential, "HIGH", high * (1 + 1e-6))
    monkeypatch.setattr(warped_exponential, "SURE", sure * (1 - 1e-5))
    monkeypatch.setattr(warped_exponential, "_LOOK", 1 - sure * (1 - 1e-5) * (1 - warped_exponential._BEYOND))
    out = torch.empty(9999, 101, dtype=torch.float64)
    warped_exponential.gamma_(out, shapes, _gamma.Scratch(out.numel() // 3, out.dtype), rng(12))
    assert_gamma(constant(warped_exponential.gamma_, shape) * out.numpy().ravel(), shape)


def test_the_warped_exponential_is_accepted_as_often_as_it_is_taken_to_be() -> None:
    # Rejection is exact if R / HIGH is a probability, and at least SURE where it is not computed.
    shapes, longest = np.geomspace(0.5, 2, 301)[:, None], warped_exponential.CUT + warped_exponential.LONGEST
    e = np.geomspace(1e-8, longest, 4001)
    warp = warped_exponential.Warp.of(torch.from_numpy(shapes))

    def warped(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t, ratio = warp.t_and_ratio(torch.from_numpy(e) / warp.s)
        return (warp.c * t).numpy(), ratio.numpy()

    t, ratio = warped(e)
    assert (ratio <= 1).all()
    assert (ratio[:, e < warped_exponential.CUT] >= warped_exponential.SURE).all()
    # The same ratio from the densities.
    step = 1e-5 * e
    slope = (warped(e + step)[0] - warped(e - step)[0]) / (2 * step)
    high = stats.gamma(shapes).pdf(t) * slope / np.exp(-e) / ratio
    np.testing.assert_allclose(high, warped_exponential.HIGH, rtol=1e-6)
    # What the module says of the share that is looked at.
    assert warped_exponential._LOOK < 1 / 74


@pytest.mark.parametrize("end", [-(2.0**31), 2.0**31])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exponential_variates_are_within_their_bounds(end, dtype, monkeypatch) -> None:
    monkeypatch.setattr(warped_exponential, "signed_uniform_", lambda out, *_: out.fill_(end))
    scratch = _gamma.Scratch(40, dtype)
    drawn = warped_exponential._minus_exponential_below_cut_(torch.empty(40, dtype=dtype), scratch, rng(17))
    assert (drawn < 0).all()
    assert (drawn >= -warped_exponential.CUT * (1 + 1e-6)).all()


@pytest.mark.parametrize(("count", "probability"), [(7, 0.3), (1000, 0.04), (10, 0.9), (100, 1e-4)])
def test_choice_by_gaps_is_independent_choice(count, probability) -> None:
    generator, times = rng(18), 4000
    chosen = torch.zeros(times, count)
    for row in chosen:
        places = warped_exponential._bernoulli(count, probability, generator)
        assert (places.diff() > 0).all()
        row[places] = 1
    # Each as often as it should be, the first and the last too, and as many together as independent choices are.
    for here in (chosen[:, 0], chosen[:, -1], chosen):
        assert stats.binomtest(int(here.sum()), here.numel(), probability).pvalue > SIGNIFICANCE
    spread = count * probability * (1 - probability)
    assert float(chosen.sum(1).var()) == pytest.approx(spread, rel=0.2 if spread > 0.5 else 0.5)
    pairs = (chosen[:, :-1] * chosen[:, 1:]).sum()  # neighbours, which one gap decides on
    expected = times * (count - 1) * probability**2
    assert abs(float(pairs) - expected) < 5 * math.sqrt(3 * expected) + 3


@pytest.mark.parametrize(
    ("draw", "few", "alphas"),
    [
        (marsaglia_tsang.gamma_, 0, (0.5, 200.0)),
        (marsaglia_tsang.gamma_, 10**9, (0.5, 200.0)),
        (warped_exponential.gamma_, 0, (0.5, 2.0)),
    ],
)
def test_every_row_keeps_its_own_alpha_when_draws_are_rejected(draw, few, alphas, monkeypatch) -> None:
    # Few draws are rejected and drawn again; with another row's alpha, weights would hardly look different.
    monkeypatch.setattr(marsaglia_tsang, "_FEW", few)
    out = torch.empty(300_000, 5, dtype=torch.float64)
    shapes = torch.tensor(alphas, dtype=torch.float64).repeat(150_000)[:, None]
    draw(out, shapes, _gamma.Scratch(out.numel() // 3, out.dtype), rng(12))
    for i, alpha in enumerate(alphas):
        assert_gamma(constant(draw, alpha) * out[i::2].flatten().numpy(), alpha)


@pytest.mark.parametrize("twice_shape", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_integer_variates_are_gamma(twice_shape, dtype) -> None:
    out = torch.empty(1000, 101, dtype=dtype)
    _gamma.half_integer_gamma_(out, twice_shape, _gamma.Scratch(out.numel() // 3, dtype), rng(14))
    assert stats.kstest(out.double().numpy().ravel(), stats.gamma(twice_shape / 2).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("few", [0, 10**9])
@pytest.mark.parametrize("shapes", [(0.05, 0.05), (0.49, 0.7), (0.3, 1.0), (3.0, 3.0), (0.2, 3.0)])
def test_logs_of_variates_are_those_of_gamma_ones(shapes, few, monkeypatch) -> None:
    monkeypatch.setattr(_gamma, "_FEW", few)
    rows, m = 4000, 5
    out = torch.empty(rows, m, dtype=torch.float64)
    alpha = torch.tensor(shapes, dtype=torch.float64).repeat(rows // 2)[:, None]
    _gamma.log2_small_gamma_(out, alpha, max(shapes), _gamma.Scratch(out.numel() // 3, out.dtype), rng(15))
    for i, shape in enumerate(shapes):
        draw = marsaglia_tsang.gamma_ if max(shapes) > 2 else warped_exponential.gamma_
        scale = 1 if few else constant(draw, shape + (shape < 0.5))
        drawn = scale * out[i::2].exp2().numpy().ravel()
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


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_subsets_are_uniform(m, few, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "_FEW_PLACES", few)
    b, n = 5, 20_000
    lam = sample_weights(n, b, m=m, alpha=1.3, generator=rng(5))
    nonzero = lam > 0
    assert (nonzero.sum(1) == m).all()
    codes = (nonzero.long() * 2 ** torch.arange(b)).sum(1)
    counts = torch.bincount(codes, minlength=2**b)
    counts = counts[[sum(2**i for i in subset) for subset in itertools.combinations(range(b), m)]]
    assert counts.sum() == n
    assert stats.chisquare(counts.numpy()).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("m", [2, 4])
def test_weights_on_a_subset_are_dirichlet(m, few, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "_FEW_PLACES", few)
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


@pytest.mark.parametrize(("n", "b", "positions"), [(100, 64, 200), (1, 8, 50_000), (10_000, 128, 3)])
def test_no_block_is_larger_than_its_limit(n, b, positions) -> None:
    blocks = sampling.iter_weights(n, b, None, 1.0, positions, rng(9), torch.float32)
    sizes = [lam.numel() for _, _, lam in blocks]
    assert max(sizes) <= sampling._BLOCK_CPU
    assert sum(sizes) == n * b * positions


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
            # A fork has none of the threads, and would wait for them, were it not told as DataLoader tells its workers.
            torch.set_num_threads(1)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
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


@pytest.mark.parametrize("m", [None, 4, 40])
@pytest.mark.parametrize("alpha", [(0.5, 2.0), 0.02, 0.5, (1.0, 3.0)])
def test_defaults_of_device_and_type_change_nothing(alpha, m, monkeypatch) -> None:
    def draw() -> torch.Tensor:
        return sample_weights(300, 64, m, alpha, generator=rng(5), device="cpu")

    wanted = draw()
    with torch.device("meta"):
        assert torch.equal(draw(), wanted)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(draw(), wanted)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(("b", "m"), [(5, 1), (1, None)])
def test_one_example_has_all_the_weight(b: int, m: int | None) -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        lam = sample_weights(1000, b, m, dtype=dtype, generator=torch.Generator().manual_seed(0))
        assert torch.equal(lam.sum(1), torch.ones(1000, dtype=dtype))
        assert torch.equal(lam.amax(1), torch.ones(1000, dtype=dtype))


def test_half_precision_keeps_m_weights_above_zero() -> None:
    lam = sample_weights(2000, 8, 5, alpha=0.1, dtype=torch.float16, generator=torch.Generator().manual_seed(0))
    assert torch.equal((lam > 0).sum(1), torch.full((2000,), 5))
    single = sample_weights(2000, 8, 5, alpha=0.1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lam.float(), single, atol=2**-11, rtol=0)
