"""Convolutional barycenters against POT, a dense kernel and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tests.methods.conftest import seeded

from multimix.methods.wasserstein import convolutional_barycenter

ot = pytest.importorskip("ot")


def blobs(k: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Images (k, *shape) of sum 1, a third of whose pixels are empty."""
    images = torch.rand(k, *shape, generator=seeded(seed), dtype=torch.float64) ** 3
    images = torch.where(torch.rand(images.shape, generator=seeded(seed + 1)) < 1 / 3, 0.0, images)
    return images / images.sum((-2, -1), keepdim=True)


@pytest.mark.parametrize("reg", [0.004, 0.03])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.85, 0.15), (0.2, 0.3, 0.5)])
def test_against_pot(reg: float, weights: tuple[float, ...]) -> None:
    images = blobs(len(weights), 12, 12)
    # The very same iteration there, so alike before it converges too.
    for iterations in (1, 3, 50):
        expected = ot.bregman.convolutional_barycenter2d(
            images.numpy(), reg, np.array(weights), "sinkhorn_log", numItermax=iterations, stopThr=0, warn=False
        )
        ours = convolutional_barycenter(
            images, torch.tensor(weights, dtype=torch.float64), reg=reg, iterations=iterations
        )
        assert np.abs(ours.numpy() - expected).max() < 1e-9 * expected.max()


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7), (0.2, 0.3, 0.5)])
def test_debiased_against_pot(weights: tuple[float, ...]) -> None:
    images = blobs(len(weights), 8, 8)
    expected = ot.bregman.convolutional_barycenter2d_debiased(
        images.numpy(), 0.015, np.array(weights), "sinkhorn", numItermax=2000, stopThr=0, warn=False
    )
    ours = convolutional_barycenter(
        images, torch.tensor(weights, dtype=torch.float64), reg=0.015, iterations=2000, debiased=True
    )
    assert np.abs(ours.numpy() - expected).max() < 1e-3 * expected.max()


def test_rectangles_against_the_dense_kernel() -> None:
    height, width, reg, weights = 5, 9, 0.01, np.array([0.3, 0.7])
    images = blobs(2, height, width)
    positions = np.array([(y, x) for y in range(height) for x in range(width)]) / (width - 1)
    log_kernel = -((positions[:, None] - positions) ** 2).sum(2) / reg
    apply = lambda x: logsumexp(log_kernel[None] + x[:, None], axis=2)  # noqa: E731
    log_images = np.log(images.reshape(2, -1).numpy() + 1e-30)
    potential = np.zeros_like(log_images)
    for _ in range(60):
        marginals = apply(log_images - apply(potential))
        log_barycenter = weights @ marginals
        potential = log_barycenter - marginals
    ours = convolutional_barycenter(images, torch.from_numpy(weights), reg=reg, iterations=60)
    assert np.allclose(ours.flatten().numpy(), np.exp(log_barycenter), rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("debiased", [False, True])
def test_many_problems_at_once_are_those_problems(debiased: bool) -> None:
    images = blobs(2, 3, 2, 7, 10)
    options = {"reg": 0.01, "iterations": 15, "debiased": debiased}
    together = convolutional_barycenter(images, torch.tensor([0.4, 0.6]), **options)
    assert together.shape == (3, 2, 7, 10)
    for i in range(3):
        for j in range(2):
            alone = convolutional_barycenter(images[:, i, j], torch.tensor([0.4, 0.6]), **options)
            assert torch.allclose(together[i, j], alone, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("lam", [0.1, 0.5, 0.75])
def test_points_meet_where_their_weighted_mean_is_with_the_width_of_the_kernel(lam: float) -> None:
    """In closed form: a geometric mean of two Gaussians of variance reg / 2 is one of the same variance."""
    size, reg = 101, 0.002
    images = torch.zeros(2, 1, size, dtype=torch.float64)
    images[0, 0, 30] = images[1, 0, 70] = 1
    middle = convolutional_barycenter(images, torch.tensor([lam, 1 - lam]).double(), reg=reg, iterations=5)[0]
    position = torch.arange(size).double() / (size - 1)
    gaussian = (-((position - (0.3 * lam + 0.7 * (1 - lam))) ** 2) / reg).exp()
    assert torch.allclose(middle / middle.sum(), gaussian / gaussian.sum(), atol=1e-7)


def test_debiased_barycenter_of_copies_is_the_image() -> None:
    image = blobs(1, 10, 10)[0]
    copies = image.expand(2, 10, 10)
    weights = torch.tensor([0.3, 0.7])
    sharp = convolutional_barycenter(copies, weights, reg=0.004, iterations=1000, debiased=True)
    blurred = convolutional_barycenter(copies, weights, reg=0.004, iterations=1000)
    assert (sharp - image).abs().sum() < 0.02
    assert (blurred - image).abs().sum() > 0.15


def test_opposite_corners_at_the_smallest_regularisation() -> None:
    images = torch.zeros(2, 33, 33)
    images[0, 0, 0] = images[1, 32, 32] = 1
    middle = convolutional_barycenter(images, torch.tensor([0.5, 0.5]), reg=1 / 650, iterations=30)
    assert torch.isfinite(middle).all()
    assert int(middle.argmax()) == 16 * 33 + 16
    assert float(middle.sum()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("reg", [0.001, 0, -1, math.nan])
def test_bad_regularisation(reg: float) -> None:
    with pytest.raises(ValueError, match="reg must be"):
        convolutional_barycenter(blobs(2, 4, 4), torch.tensor([0.5, 0.5]), reg=reg, iterations=1)
