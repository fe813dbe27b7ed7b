"""OptTransMix: content moves, mass and targets follow lambda."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.conftest import seeded

from multimix.functional import sample_weights
from multimix.methods import OptTransMix


def spots(positions, size: int = 33, channels: int = 1, value: float = 0.3) -> torch.Tensor:
    images = torch.zeros(len(positions), channels, size, size)
    for image, (y, x) in zip(images, positions, strict=True):
        image[:, y - 2 : y + 3, x - 2 : x + 3] = value
    return images


def drawn(b: int, seed: int, alpha: float = 1.0) -> tuple[float, torch.Tensor]:
    generator = seeded(seed)
    lam = float(sample_weights(1, 2, alpha=alpha, generator=generator, dtype=torch.float64)[0, 0])
    return lam, torch.randperm(b, generator=generator)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("background", ["dark", "light"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_spot_stands_where_lambda_puts_it(debiased: bool, background: str, seed: int) -> None:
    positions = torch.tensor([(6, 8), (24, 10), (14, 26)])
    dark = spots(positions.tolist(), channels=2)
    images = 1 - dark if background == "light" else dark
    method = OptTransMix(background=background, debiased=debiased, iterations=100)
    mixed, soft = method.mix(images, torch.arange(3), 3, seeded(seed))
    mass = (1 - mixed if background == "light" else mixed).double()
    lam, partner = drawn(3, seed)
    centres = lam * positions + (1 - lam) * positions[partner]
    grid = torch.arange(33.0).double()
    total = mass.sum((2, 3))
    rows, columns = (mass.sum(3) @ grid) / total, (mass.sum(2) @ grid) / total
    for channel in range(2):
        assert torch.allclose(rows[:, channel], centres[:, 0].double(), atol=0.05)
        assert torch.allclose(columns[:, channel], centres[:, 1].double(), atol=0.05)
    # Input mixup would leave two spots: all mass is near the one here.
    for image, (y, x) in zip(mass, centres.round().int().tolist(), strict=True):
        assert image[:, y - 5 : y + 6, x - 5 : x + 6].sum() > 0.98 * image.sum()
    for i in range(3):
        target = torch.zeros(3)
        target[i] += lam
        target[partner[i]] += 1 - lam
        assert torch.allclose(soft[i], target, atol=1e-6)


@given(
    b=st.integers(1, 5),
    channels=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_mass_is_interpolated_channel_by_channel(b: int, channels: int, height: int, width: int, seed: int) -> None:
    images = torch.rand(b, channels, height, width, generator=seeded(seed)) * 0.3
    images[torch.rand(b, channels, generator=seeded(seed)) < 0.3] = 0  # empty channels among them
    kept, state = images.clone(), torch.get_rng_state()
    mixed, soft = OptTransMix(0.8, reg=0.01).mix(images, torch.arange(b), b, seeded(seed))
    lam, partner = drawn(b, seed, 0.8)
    assert mixed.shape == images.shape
    assert mixed.dtype == images.dtype
    assert torch.isfinite(mixed).all()
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    mass = images.sum((2, 3))
    expected = lam * mass + (1 - lam) * mass[partner]
    unclipped = mixed.amax((2, 3)) < 1
    assert torch.allclose(mixed.sum((2, 3))[unclipped], expected[unclipped], rtol=1e-4, atol=1e-5)
    assert torch.allclose(soft.sum(1), torch.ones(b))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)
    again = OptTransMix(0.8, reg=0.01).mix(images, torch.arange(b), b, seeded(seed))
    assert torch.equal(again[0], mixed)


def test_an_empty_channel_takes_the_shape_of_the_other() -> None:
    full, empty = spots([(10, 20)]), torch.zeros(1, 1, 33, 33)
    method = OptTransMix(debiased=True, iterations=100)
    mixed = method.barycenter(full, empty, 0.25)
    assert (mixed - 0.25 * full).abs().sum() < 0.1 * mixed.sum()
    assert method.barycenter(empty, empty, 0.25).abs().max() == 0


def test_debiased_mixture_with_itself_is_the_image() -> None:
    image = spots([(10, 20)])
    blurred, sharp = (
        OptTransMix(debiased=debiased, iterations=100).barycenter(image, image, 0.4) for debiased in (0, 1)
    )
    assert (sharp - image).abs().sum() < 0.1 * image.sum()
    assert (blurred - image).abs().sum() > 0.3 * image.sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OptTransMix(background="white"), "background must be 'dark' or 'light', got 'white'"),
        (lambda: OptTransMix(reg=0.001), "reg must be at least 1/650 = 0.00154 of the squared longer side, got 0.001"),
        (lambda: OptTransMix(reg=0), "reg must be a positive number"),
        (lambda: OptTransMix(iterations=0), "iterations must be"),
        (
            lambda: OptTransMix().mix(torch.rand(2, 3), torch.arange(2), 2),
            r"images must be \(b, channels, height, width\)",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
