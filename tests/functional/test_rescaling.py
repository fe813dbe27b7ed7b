"""The rescaling factor against sampled weights, and against the gradient of the loss itself."""

import math

import pytest
import torch
from scipy import integrate

from multimix.functional import mixed_cross_entropy, rescaling_factor, sample_weights

CASES = [(12, None, 0.1), (12, None, (0.5, 2.0)), (12, 3, 0.7), (12, 5, (0.05, 1.0)), (12, 1, 1.0), (2, 2, 0.5)]


@pytest.mark.parametrize(("b", "m", "alpha"), CASES)
def test_second_moments_of_sampled_weights(b: int, m: int | None, alpha) -> None:
    lam = sample_weights(400_000, b, m, alpha, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = lam.T @ lam / len(lam)
    diagonal = moments.diagonal().mean()
    off = (moments.sum() - moments.diagonal().sum()) / (b * (b - 1))
    assert float(b * (diagonal - off)) == pytest.approx(1 / rescaling_factor(b, m, alpha), rel=0.01)


def test_the_range_of_alpha_is_the_mean_over_alpha() -> None:
    for b, m in ((128, 128), (30, 4)):
        mean, _ = integrate.quad(lambda alpha: 1 / rescaling_factor(b, m, alpha), 0.2, 3.0)  # noqa: B023
        assert rescaling_factor(b, m, (0.2, 3.0)) == pytest.approx(2.8 / mean)


def test_limits() -> None:
    assert rescaling_factor(1) == 1
    assert rescaling_factor(64, m=1) == pytest.approx(1)
    assert rescaling_factor(64, alpha=1e-12) == pytest.approx(1)
    with pytest.raises(ValueError, match="m must be between 1 and 8, got 9"):
        rescaling_factor(8, 9)


@pytest.mark.parametrize(("m", "alpha"), [(None, 1.0), (None, (0.5, 2.0)), (4, 0.5)])
def test_rescaled_gradient_has_the_size_of_cross_entropys(m: int | None, alpha) -> None:
    # Near the batch mean the first order is all there is: the centred gradients then agree in size.
    generator = torch.Generator().manual_seed(1)
    b, c = 16, 5
    logits = (1e-3 * torch.randn(b, c, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(c, (b,), generator=generator)

    def centred(loss: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(loss, logits)
        return gradient - gradient.mean(0)

    lam = sample_weights(400_000, b, m, alpha, generator=generator, dtype=torch.float64)
    mixed = rescaling_factor(b, m, alpha) * centred(mixed_cross_entropy(logits, labels, lam))
    clean = centred(torch.nn.functional.cross_entropy(logits, labels))
    assert float((mixed - clean).norm() / clean.norm()) < 0.05


@pytest.mark.parametrize("low", [0.3, 1.0, 50.0])
@pytest.mark.parametrize("relative", [2e-16, 1e-14, 1e-9])
def test_a_narrow_range_is_its_middle(low: float, relative: float) -> None:
    high = max(math.nextafter(low, math.inf), low * (1 + relative))
    assert rescaling_factor(32, m=8, alpha=(low, high)) == pytest.approx(rescaling_factor(32, m=8, alpha=low), 1e-8)
