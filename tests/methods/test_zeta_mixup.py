"""ZetaMixup: the weights against the closed form, their order against the uniform distribution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from tests.methods.conftest import numbered, seeded

from multimix.methods import ZetaMixup
from multimix.methods.zeta_mixup import zeta_weights


@given(b=st.integers(1, 12), gamma=st.floats(0.5, 6), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_rows_are_the_truncated_zeta_distribution(b: int, gamma: float, seed: int) -> None:
    lam = zeta_weights(b, gamma, seeded(seed)).double()
    expected = torch.tensor([stats.zipfian(gamma, b).pmf(k) for k in range(1, b + 1)])
    assert torch.allclose(lam.sort(1, descending=True).values, expected.expand(b, b), atol=1e-6)
    assert torch.allclose(lam.diagonal(), expected[:1].expand(b), atol=1e-6)


def test_the_others_are_in_uniformly_random_order_and_independent_between_rows() -> None:
    # The order of the three others in a row of b = 4: 6 equally likely; of two rows together: 36.
    counts = torch.zeros(6, 6)
    for seed in range(3000):
        lam = zeta_weights(4, 2.0, seeded(seed))
        first, second = (lam[i][[k for k in range(4) if k != i]].argsort() for i in (0, 2))
        counts[_number(first), _number(second)] += 1
    assert stats.chisquare(counts.flatten().numpy()).pvalue > 1e-3


def _number(order: torch.Tensor) -> int:
    return int(order[0] * 2 + (order[1] > order[2]))


@pytest.mark.parametrize("b", [2, 128, 4096])
def test_own_weight_dominates_above_the_threshold(b: int) -> None:
    """zeta(gamma) = 2 at gamma = 1.7287 (the paper's bound): the weight of the example itself exceeds one half."""
    assert special.zeta(1.7286, 1) > 2 > special.zeta(1.7287, 1)
    own = lambda gamma: stats.zipfian(gamma, b).pmf(1)  # noqa: E731
    assert own(1.7287) > 0.5
    if b <= 128:
        assert float(zeta_weights(b, 1.7287, seeded(0)).diagonal().min()) == pytest.approx(own(1.7287), rel=1e-6)


@given(b=st.integers(1, 9), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_targets_match_what_was_mixed(b: int, seed: int) -> None:
    images = numbered(b, 5)
    images[:, 1] = images[:, 1] ** 2
    mixed, soft = ZetaMixup(1.3).mix(images, torch.arange(b), b, seeded(seed))
    number = torch.arange(1.0, b + 1)
    assert torch.allclose(mixed[:, 0].mean((1, 2)), soft @ number, rtol=1e-5)
    assert torch.allclose(mixed[:, 1].mean((1, 2)), soft @ number**2, rtol=1e-5)
    assert torch.allclose(soft, zeta_weights(b, 1.3, seeded(seed)))


def test_classes_that_occur_twice_collect_their_weights() -> None:
    labels = torch.tensor([1, 0, 1, 1])
    soft = ZetaMixup().mix(numbered(4, 2), labels, 2, seeded(0))[1]
    lam = zeta_weights(4, 2.8, seeded(0))
    assert torch.allclose(soft[:, 0], lam[:, 1])


@pytest.mark.parametrize("gamma", [0, -1, "2"])
def test_bad_gamma(gamma) -> None:
    with pytest.raises(ValueError, match="gamma must be a positive number"):
        ZetaMixup(gamma)
