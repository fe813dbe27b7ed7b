"""FMix: the mask against NumPy's Fourier transform, the share of its pixels, and the spectrum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.methods.conftest import numbered, seeded

from multimix.methods import FMix
from multimix.methods.fmix import low_frequency_image, top_pixels
from multimix.methods.pairs import Pairing


@given(b=st.integers(1, 6), height=st.integers(1, 17), width=st.integers(1, 17), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_targets_are_the_share_of_the_pixels(b: int, height: int, width: int, seed: int) -> None:
    images = torch.arange(1.0, b + 1).view(b, 1, 1, 1).expand(b, 2, height, width).clone()
    mixed, soft = FMix().mix(images, torch.arange(b), b, seeded(seed))
    for i in range(b):
        for k in range(b):
            assert float(soft[i, k]) == pytest.approx(float((mixed[i] == k + 1).float().mean()), abs=1e-6)
    # One mask for the mini-batch and for all channels.
    kept = [mixed[i] == i + 1 for i in range(b) if soft[i, i] < 1]
    assert all(torch.equal(mask, kept[0]) and torch.equal(mask[0], mask[1]) for mask in kept)


def test_the_default_type_changes_nothing() -> None:
    expected = low_frequency_image(9, 6, 3.0, seeded(0))
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = low_frequency_image(9, 6, 3.0, seeded(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 9), (8, 21)])
def test_low_frequency_image_is_the_definition(height: int, width: int) -> None:
    """Sum over all frequencies, written out: the half spectrum that is drawn, and its mirror image."""
    image = low_frequency_image(height, width, 3.0, seeded(4)).numpy()
    noise = torch.randn(height, width // 2 + 1, 2, generator=seeded(4)).double().numpy()
    total = np.zeros((height, width))
    rows, columns = np.mgrid[:height, :width]
    for ky in range(height):
        for kx in range(width // 2 + 1):
            fy, fx = (ky if ky < height / 2 else ky - height) / height, kx / width
            scale = (max(np.hypot(fy, fx), 1 / max(height, width)) * max(height, width)) ** -3
            wave = np.exp(2j * np.pi * (ky * rows / height + kx * columns / width))
            both = 1 if kx == 0 or 2 * kx == width else 2
            total += both * scale * ((noise[ky, kx, 0] + 1j * noise[ky, kx, 1]) * wave).real / (height * width)
    assert np.abs(image - total).max() < 1e-4 * np.abs(total).max()


@pytest.mark.parametrize("decay", [1.0, 3.0])
def test_power_falls_as_frequency_to_the_minus_twice_the_decay(decay: float) -> None:
    size, power = 32, 0
    for seed in range(300):
        power = power + np.abs(np.fft.rfft2(low_frequency_image(size, size, decay, seeded(seed)).numpy())) ** 2 / 300
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    # Coefficients that are not their own mirror image, so that both parts of the noise count.
    inner = np.s_[:, 1 : size // 2]
    slope = np.polyfit(np.log(frequency[inner].ravel()), np.log(power[inner].ravel()), 1)[0]
    assert slope == pytest.approx(-2 * decay, abs=0.05)
    expected = 2 * (size * frequency[inner]) ** (-2 * decay)
    assert (power[inner] / expected).mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("decay", [30.0, 1e4])
def test_a_large_decay_leaves_the_lowest_frequencies(decay: float) -> None:
    image = low_frequency_image(32, 32, decay, seeded(0))
    assert image.isfinite().all()
    spectrum = torch.fft.rfft2(image).abs()
    assert spectrum[:2, :2].max() > 1e6 * spectrum[3:-3, 3:].max()


def test_a_mask_is_the_brightest_share_of_an_image_of_the_given_decay() -> None:
    shown = 0
    for seed in range(20):
        generator = seeded(seed)
        lam, partner = Pairing.draw(2, 0.7, generator, torch.device("cpu"))
        image = low_frequency_image(5, 6, 0.5, generator)
        place = (-image).flatten().argsort().argsort().view(5, 6)
        mixed, _ = FMix(0.7, decay=0.5).mix(numbered(2, 6)[..., :5, :], torch.arange(2), 2, seeded(seed))
        if partner[0] == 1:
            assert torch.equal(mixed[0, 0] == 1, place < round(30 * lam))
            shown += 1
    assert shown > 3


def test_lambda_is_beta() -> None:
    shares = []
    for seed in range(1500):
        mixed, _ = FMix(alpha=0.6).mix(numbered(2, 40), torch.arange(2), 2, seeded(seed))
        if torch.randperm(2, generator=_after_lambda(seed))[0] == 1:
            shares.append(float((mixed[0] == 1).float().mean()))
    assert len(shares) > 600
    assert stats.kstest(shares, stats.beta(0.6, 0.6).cdf).pvalue > 1e-3


def _after_lambda(seed: int) -> torch.Generator:
    from multimix.functional import sample_weights

    generator = seeded(seed)
    sample_weights(1, 2, alpha=0.6, generator=generator, dtype=torch.float64)
    return generator


def test_regions_are_connected_where_noise_is_not() -> None:
    """A low-frequency mask changes between neighbours far more rarely than a random one of the same share."""
    edges = []
    for decay in (3.0, 1e-6):
        masks = torch.stack([top_pixels(low_frequency_image(32, 32, decay, seeded(s)), 512) for s in range(50)])
        edges.append(float((masks[:, 1:] != masks[:, :-1]).float().mean()))
    assert edges[0] < 0.12
    assert edges[1] == pytest.approx(0.5, abs=0.03)


@given(count=st.integers(0, 30), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_top_pixels_with_ties(count: int, seed: int) -> None:
    image = torch.randint(4, (5, 6), generator=seeded(seed)).float()
    mask = top_pixels(image, count)
    assert mask.sum() == count
    if 0 < count < 30:
        assert image[mask].min() >= image[~mask].max()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="decay must be a positive number, got 0"):
        FMix(decay=0)
    with pytest.raises(ValueError, match=r"images must be \(b, channels, height, width\), got shape \(2, 3\)"):
        FMix().mix(torch.rand(2, 3), torch.arange(2), 2)
