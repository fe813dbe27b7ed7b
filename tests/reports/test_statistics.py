"""Means and paired intervals against scipy."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from multimix.reports.headline import sentence
from multimix.reports.statistics import Difference, estimate, paired_difference

numbers = st.floats(-1, 1, width=16)


@given(st.lists(numbers, min_size=2, max_size=20))
def test_estimate_is_the_sample_mean_and_deviation(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-12)
    assert found.std == pytest.approx(statistics.stdev(values), abs=1e-9)


def test_one_value_has_no_deviation_and_none_is_an_error() -> None:
    assert estimate([0.5]).mean == 0.5
    assert math.isnan(estimate([0.5]).std)
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12))
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore:Precision loss")
def test_paired_interval_equals_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = dict(enumerate(p[0] for p in pairs)), dict(enumerate(p[1] for p in pairs))
    found = paired_difference(a, b)
    assert found is not None
    differences = [x - y for x, y in pairs]
    if statistics.stdev(differences) < 1e-6:
        assert found.half_width == pytest.approx(0, abs=1e-4)
        return
    interval = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (interval.low, interval.high), abs=1e-8
    )


def test_pairs_are_by_seed_and_seeds_without_a_partner_do_not_count() -> None:
    found = paired_difference({3: 0.9, 1: 0.5, 7: 0.1}, {1: 0.4, 3: 0.7, 5: 0.0})
    assert found is not None
    assert found.mean == pytest.approx(0.15)
    assert found.n == 2
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_rates_that_differ_by_the_same_number_of_images_have_no_spread() -> None:
    right = {0: 301, 1: 317, 2: 306}
    ours, theirs = ({k: (count + more) / 360 for k, count in right.items()} for more in (7, 0))
    assert statistics.stdev(ours[k] - theirs[k] for k in right) > 0  # of rounding
    found = paired_difference(ours, theirs)
    assert found == (pytest.approx(7 / 360), 0.0, 3)
    assert found is not None
    assert found.verdict == "unknown"


def test_a_few_images_of_many_are_no_rounding() -> None:
    right = {0: 450_001, 1: 450_017, 2: 450_006}
    found = paired_difference(
        {k: (n + 1 + k) / 500_000 for k, n in right.items()}, {k: n / 500_000 for k, n in right.items()}
    )
    assert found is not None
    interval = stats.ttest_1samp([2e-6, 4e-6, 6e-6], 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(4e-6)
    assert found.half_width == pytest.approx(interval.high - 4e-6, rel=1e-6)


def test_what_differs_by_rounding_alone_does_not_differ() -> None:
    found = paired_difference({0: 0.1 + 0.2, 1: 0.7}, {0: 0.3, 1: 0.7})
    assert found == (0.0, 0.0, 2)
    assert found is not None
    assert found.verdict == "noise"


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Difference(0.02, 0.01, 5), "higher"),
        (Difference(-0.02, 0.01, 5), "lower"),
        (Difference(0.02, 0.03, 5), "noise"),
        (Difference(0.0, 0.0, 5), "noise"),
        (Difference(0.02, math.nan, 1), "unknown"),
    ],
)
def test_a_verdict_needs_an_interval_that_leaves_out_zero(difference: Difference, verdict: str) -> None:
    assert difference.verdict == verdict


BETTER, WORSE, NOISE = Difference(0.03, 0.01, 5), Difference(-0.03, 0.01, 5), Difference(0.01, 0.02, 5)


@pytest.mark.parametrize(
    ("differences", "higher", "expected"),
    [
        ({"a": BETTER}, True, "a (+3.00 ± 1.00) is better than ERM in M."),
        ({"a": BETTER}, False, "a (+3.00 ± 1.00) is worse than ERM in M."),
        (
            {"a": BETTER, "b": WORSE, "c": BETTER, "d": NOISE},
            True,
            "a (+3.00 ± 1.00) and c (+3.00 ± 1.00) are better than ERM in M; b (−3.00 ± 1.00) is worse; "
            "for d (+1.00 ± 2.00) the difference is within the noise.",
        ),
        (
            {"a": NOISE, "b": NOISE},
            True,
            "for no method do these runs show a difference from ERM in M: a (+1.00 ± 2.00) and b (+1.00 ± 2.00).",
        ),
        ({"a": NOISE}, True, "for a (+1.00 ± 2.00) the difference from ERM in M is within the noise."),
        (
            {"a": WORSE, "b": Difference(0.5, math.nan, 1)},
            True,
            "a (−3.00 ± 1.00) is worse than ERM in M; for b (+50.00) there is only one pair of runs, "
            "which cannot tell.",
        ),
        (
            {"a": Difference(0.5, 0.0, 2), "b": Difference(0.5, math.nan, 1)},
            True,
            "for b (+50.00) there is only one pair of runs, which cannot tell a difference from ERM in M from noise; "
            "for a (+50.00) there is no spread between pairs of runs, which cannot tell.",
        ),
    ],
)
def test_the_sentence_says_what_the_intervals_allow(
    differences: dict[str, Difference], higher: bool, expected: str
) -> None:
    assert sentence("M", differences, higher_is_better=higher) == expected
