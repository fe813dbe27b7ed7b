"""The corruptions against closed forms, scipy, OpenCV, Pillow and loops over pixels."""

from __future__ import annotations

import colorsys
import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch import Tensor

from multimix.evaluation.corruptions import CORRUPTIONS, constants, corrupt, filters, kinds


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(b: int = 4, c: int = 3, h: int = 32, w: int = 32) -> Tensor:
    """Smooth random images with some texture, float in [0, 1]."""
    coarse = torch.nn.functional.interpolate(torch.rand(b, c, 4, 4, generator=generator()), size=(h, w), mode="bicubic")
    return (coarse + 0.1 * torch.rand(b, c, h, w, generator=generator(1))).clamp(0, 1)


@given(
    st.sampled_from(CORRUPTIONS), st.integers(1, 5), st.sampled_from([(1, 8, 8), (3, 17, 12), (1, 9, 40), (3, 64, 64)]),
    st.sampled_from([*constants.CONSTANTS, None]), st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_any_size_gives_the_same_shape_type_and_range_and_repeats(name, severity, shape, of, as_bytes, seed) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(2, *shape, generator=generator(seed))
    images = (255 * images).byte() if as_bytes else images
    before, state = images.clone(), torch.get_rng_state()
    first = corrupt(images, name, severity, generator=generator(seed), constants=of)
    again = corrupt(images, name, severity, generator=generator(seed), constants=of)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert torch.equal(first, again)
    assert as_bytes or (first.min() >= 0 and first.max() <= 1)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


# The published constants of these trade one cause of change for another, so that a later severity can be nearer.
UNEVEN = {"glass_blur", "snow", "frost", "fog", "elastic_transform"}


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [32, 64, 224])
def test_severities_lead_away_from_the_image(name: str, size: int) -> None:
    images = pictures(b=2, h=size, w=size)
    distances = [
        (corrupt(images, name, severity, generator=generator()) - images).square().mean().item()
        for severity in range(1, 6)
    ]
    assert distances[0] > 1e-6
    if name not in ("glass_blur", "elastic_transform"):
        assert distances[0] < distances[4]
    if name not in UNEVEN:
        assert all(near < far * 1.001 for near, far in pairwise(distances)), distances


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_neither_autocast_nor_the_layout_in_memory_changes_an_image(name: str) -> None:
    images = pictures()
    expected = corrupt(images, name, 3, generator=generator())
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(corrupt(last, name, 3, generator=generator()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(corrupt(images, name, 3, generator=generator()), expected)


def test_noises_have_their_mean_and_variance() -> None:
    grey = torch.full((200, 3, 32, 32), 0.5)
    for severity in range(1, 6):
        gaussian = corrupt(grey, "gaussian_noise", severity, generator=generator()) - 0.5
        assert gaussian.std().item() == pytest.approx((0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1], rel=0.02)
        shot = corrupt(grey, "shot_noise", severity, generator=generator())
        assert shot.var().item() == pytest.approx(0.5 / (500, 250, 100, 75, 50)[severity - 1], rel=0.03)
        assert shot.mean().item() == pytest.approx(0.5, abs=2e-3)
        impulse = corrupt(grey, "impulse_noise", severity, generator=generator())
        amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
        for value in (0, 1):
            assert (impulse == value).float().mean().item() == pytest.approx(amount / 2, rel=0.06)
        assert ((impulse != 0) & (impulse != 1)).sum() == (impulse == 0.5).sum()


def test_brightness_raises_the_value_of_hsv() -> None:
    images = pictures(b=1, h=8, w=8)
    images[0, :, 0, 0] = 0
    ours = corrupt(images, "brightness", 4)[0].permute(1, 2, 0).reshape(-1, 3)
    for before, after in zip(images[0].permute(1, 2, 0).reshape(-1, 3).tolist(), ours.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1)), abs=1e-5)


@pytest.mark.parametrize("of", list(constants.CONSTANTS))
def test_constants_are_the_ones_asked_for_whatever_the_size(of: constants.ConstantsOf) -> None:
    grey = torch.full((1, 3, 32, 32), 0.25)
    for severity, (amount,) in enumerate(constants.CONSTANTS[of]["brightness"], start=1):
        torch.testing.assert_close(corrupt(grey, "brightness", severity, constants=of), grey + amount)


# Each severity's numbers as the authors' programs have them (make_cifar_c.py, make_tinyimagenet_c.py and
# make_imagenet_c.py of github.com/hendrycks/robustness), from the first severity to the fifth. Those of the elastic
# transform are in units of the side, which make_imagenet_c.py takes for 244 pixels.
PUBLISHED = {
    "cifar": {
        "gaussian_noise": "0.04 / 0.06 / 0.08 / 0.09 / 0.1", "shot_noise": "500 / 250 / 100 / 75 / 50",
        "impulse_noise": "0.01 / 0.02 / 0.03 / 0.05 / 0.07",
        "defocus_blur": "0.3 0.4 / 0.4 0.5 / 0.5 0.6 / 1 0.2 / 1.5 0.1",
        "glass_blur": "0.05 1 1 / 0.25 1 1 / 0.4 1 1 / 0.25 1 2 / 0.4 1 2",
        "motion_blur": "6 1 / 6 1.5 / 6 2 / 8 2 / 9 2.5",
        "snow": "0.1 0.2 1 0.6 8 3 0.95 / 0.1 0.2 1 0.5 10 4 0.9 / 0.15 0.3 1.75 0.55 10 4 0.9 / "
                "0.25 0.3 2.25 0.6 12 6 0.85 / 0.3 0.3 1.25 0.65 14 12 0.8",
        "frost": "1 0.2 / 1 0.3 / 0.9 0.4 / 0.85 0.4 / 0.75 0.45",
        "fog": "0.2 3 / 0.5 3 / 0.75 2.5 / 1 2 / 1.5 1.75",
        "brightness": "0.05 / 0.1 / 0.15 / 0.2 / 0.3", "contrast": "0.75 / 0.5 / 0.4 / 0.3 / 0.15",
        "elastic_transform": "0 0 0.08 / 0.05 0.2 0.07 / 0.08 0.06 0.06 / 0.1 0.04 0.05 / 0.1 0.03 0.03",
        "pixelate": "0.95 / 0.9 / 0.85 / 0.75 / 0.65", "jpeg_compression": "80 / 65 / 58 / 50 / 40",
    },
    "tinyimagenet": {
        "gaussian_noise": "0.04 / 0.08 / 0.12 / 0.15 / 0.18", "shot_noise": "250 / 100 / 50 / 30 / 15",
        "impulse_noise": "0.01 / 0.02 / 0.05 / 0.08 / 0.14",
        "defocus_blur": "0.5 0.6 / 1 0.1 / 1.5 0.1 / 2.5 0.01 / 3 0.1",
        "glass_blur": "0.1 1 1 / 0.5 1 1 / 0.6 1 2 / 0.7 2 1 / 0.9 2 2",
        "motion_blur": "10 1 / 10 1.5 / 10 2 / 10 2.5 / 12 3",
        "snow": "0.1 0.2 1 0.6 8 3 0.8 / 0.1 0.2 1 0.5 10 4 0.8 / 0.15 0.3 1.75 0.55 10 4 0.7 / "
                "0.25 0.3 2.25 0.6 12 6 0.65 / 0.3 0.3 1.25 0.65 14 12 0.6",
        "frost": "1 0.3 / 0.9 0.4 / 0.8 0.45 / 0.75 0.5 / 0.7 0.55",
        "fog": "0.4 3 / 0.7 3 / 1 2.5 / 1.5 2 / 2 1.75",
        "brightness": "0.1 / 0.2 / 0.3 / 0.4 / 0.5", "contrast": "0.4 / 0.3 / 0.2 / 0.1 / 0.05",
        "elastic_transform": "0 0 0.08 / 0.05 0.3 0.06 / 0.1 0.08 0.06 / 0.1 0.03 0.03 / 0.16 0.03 0.02",
        "pixelate": "0.9 / 0.8 / 0.7 / 0.6 / 0.5", "jpeg_compression": "65 / 58 / 50 / 40 / 25",
    },
    "imagenet": {
        "gaussian_noise": "0.08 / 0.12 / 0.18 / 0.26 / 0.38", "shot_noise": "60 / 25 / 12 / 5 / 3",
        "impulse_noise": "0.03 / 0.06 / 0.09 / 0.17 / 0.27",
        "defocus_blur": "3 0.1 / 4 0.5 / 6 0.5 / 8 0.5 / 10 0.5",
        "glass_blur": "0.7 1 2 / 0.9 2 1 / 1 2 3 / 1.1 3 2 / 1.5 4 2",
        "motion_blur": "10 3 / 15 5 / 15 8 / 15 12 / 20 15",
        "snow": "0.1 0.3 3 0.5 10 4 0.8 / 0.2 0.3 2 0.5 12 4 0.7 / 0.55 0.3 4 0.9 12 8 0.7 / "
                "0.55 0.3 4.5 0.85 12 8 0.65 / 0.55 0.3 2.5 0.85 12 12 0.55",
        "frost": "1 0.4 / 0.8 0.6 / 0.7 0.7 / 0.65 0.7 / 0.6 0.75",
        "fog": "1.5 2 / 2 2 / 2.5 1.7 / 2.5 1.5 / 3 1.4",
        "brightness": "0.1 / 0.2 / 0.3 / 0.4 / 0.5", "contrast": "0.4 / 0.3 / 0.2 / 0.1 / 0.05",
        "elastic_transform": "2 0.7 0.1 / 2 0.08 0.2 / 0.05 0.01 0.02 / 0.07 0.01 0.02 / 0.12 0.01 0.02",
        "pixelate": "0.6 / 0.5 / 0.4 / 0.3 / 0.25", "jpeg_compression": "25 / 18 / 15 / 10 / 7",
    },
}  # fmt: skip


@pytest.mark.parametrize("of", list(PUBLISHED))
def test_constants_are_the_published_ones(of: constants.ConstantsOf) -> None:
    for name, told in PUBLISHED[of].items():
        unit = 244 / 224 if (of, name) == ("imagenet", "elastic_transform") else 1.0
        for row, found in zip(told.split(" / "), constants.CONSTANTS[of][name], strict=True):
            assert found == pytest.approx([unit * float(number) for number in row.split()]), name
    ends = {1.11: 0.01, 1.16: 0.01, 1.21: 0.02, 1.26: 0.02, 1.31: 0.03}
    if of != "imagenet":
        ends = dict.fromkeys((1.06, 1.11, 1.16, 1.21, 1.26), 0.01)
    counts = [(step, len(np.arange(1, end, step))) for end, step in ends.items()]  # some have one more than one thinks
    assert list(constants.CONSTANTS[of]["zoom_blur"]) == counts


def test_contrast_shrinks_the_standard_deviation_and_keeps_the_mean() -> None:
    images = 0.3 + 0.4 * pictures()
    faded = corrupt(images, "contrast", 2)
    torch.testing.assert_close(faded.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(faded.std((2, 3)), 0.5 * images.std((2, 3)))


@pytest.mark.parametrize(("edge", "mode"), [("nearest", "nearest"), ("symmetric", "reflect"), ("reflect", "mirror")])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 3.0, 40.0])
def test_gaussian_blur_is_scipys(edge: filters.Edge, mode: str, sigma: float) -> None:
    image = pictures(b=1, h=20, w=13)[0, 0].double()
    expected = ndimage.gaussian_filter(image.numpy(), sigma, mode=mode, truncate=3)
    ours = filters.gaussian_blur(image, sigma, truncate=3, edge=edge)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("radius_and_sigma", [(0.3, 0.4), (1, 0.2), (1.5, 0.1), (8, 0.5), (10, 0.5)])
def test_defocus_blur_is_opencvs(radius_and_sigma: tuple[float, float]) -> None:
    cv2 = pytest.importorskip("cv2")
    radius, sigma = radius_and_sigma
    reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
    line = np.arange(-reach, reach + 1)
    kernel = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(kernel / kernel.sum(), ksize=(taps, taps), sigmaX=sigma)
    images = pictures(b=1, h=40, w=30)
    expected = cv2.filter2D(images[0].permute(1, 2, 0).numpy(), -1, kernel)
    ours = kinds.defocus_blur(images, generator(), radius, sigma)[0].permute(1, 2, 0)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("factor", [1.0, 1.03, 1.11, 1.25, 2.25, 4.5])
def test_clipped_zoom_is_scipys(factor: float) -> None:
    image = pictures(b=1, c=1, h=32, w=32)
    kept = math.ceil(32 / factor)
    top = (32 - kept) // 2
    zoomed = ndimage.zoom(image[0, 0, top : top + kept, top : top + kept].double().numpy(), factor, order=1)
    cut = (len(zoomed) - 32) // 2
    ours = filters.clipped_zoom(image.double(), factor)[0, 0]
    np.testing.assert_allclose(ours.numpy(), zoomed[cut : cut + 32, cut : cut + 32], atol=1e-6)


def test_pixelate_is_pillows_box_filter() -> None:
    images = (255 * pictures(b=2)).byte()
    for severity, factor in enumerate((0.95, 0.9, 0.85, 0.75, 0.65), start=1):
        ours = corrupt(images, "pixelate", severity).permute(0, 2, 3, 1).int()
        for k in range(2):
            picture = Image.fromarray(images[k].permute(1, 2, 0).numpy())
            small = picture.resize((int(32 * factor), int(32 * factor)), Image.Resampling.BOX)
            expected = torch.from_numpy(np.array(small.resize((32, 32), Image.Resampling.BOX))).int()
            # Pillow rounds to bytes after every pass.
            assert (ours[k] - expected).abs().max() <= 1


def test_jpeg_is_pillows_file_of_that_quality() -> None:
    for images in ((255 * pictures(b=2)).byte(), (255 * pictures(b=2, c=1)).byte()):
        ours = corrupt(images, "jpeg_compression", 3)
        for k in range(2):
            file = io.BytesIO()
            Image.fromarray(images[k].permute(1, 2, 0).squeeze(-1).numpy()).save(file, "JPEG", quality=58)
            decoded = torch.from_numpy(np.array(Image.open(file)))
            assert torch.equal(ours[k].permute(1, 2, 0).squeeze(-1), decoded)


def test_motion_blur_is_half_a_gaussian_along_a_line() -> None:
    images, degrees = pictures(b=3, h=11, w=14).double(), torch.tensor([0.0, 37.0, -100.0])
    ours = filters.motion_blur(images, 4, 1.5, degrees)
    weights = [math.exp(-(t**2) / (2 * 1.5**2)) for t in range(9)]
    for k, angle in enumerate(math.radians(d) for d in degrees.tolist()):
        for y, x in [(0, 0), (5, 7), (10, 13), (2, 12)]:
            expected = torch.zeros(3, dtype=torch.double)
            for t, weight in enumerate(weights):
                row = min(max(y + math.ceil(t * math.sin(angle) - 0.5), 0), 10)
                column = min(max(x + math.ceil(t * math.cos(angle) - 0.5), 0), 13)
                expected += weight / sum(weights) * images[k, :, row, column]
            torch.testing.assert_close(ours[k, :, y, x], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("edge", "mode"), [("symmetric", "reflect"), ("reflect", "mirror")])
def test_sampling_is_scipys(edge, mode: str) -> None:  # type: ignore[no-untyped-def]
    image = pictures(b=1, c=1, h=12, w=15).double()
    rows = torch.rand(1, 12, 15, generator=generator()).double() * 30 - 9
    columns = torch.rand(1, 12, 15, generator=generator(1)).double() * 30 - 9
    expected = ndimage.map_coordinates(image[0, 0].numpy(), [rows[0].numpy(), columns[0].numpy()], order=1, mode=mode)
    np.testing.assert_allclose(filters.sample(image, columns, rows, edge)[0, 0].numpy(), expected, atol=1e-9)


def test_the_affine_part_of_the_elastic_transform_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    images = pictures(b=1, c=1)
    ours = kinds.elastic_transform(images, generator(5), 0.0, 0.0, 0.08)[0, 0]
    corners = np.float32([[26, 26], [26, 6], [6, 6]])
    shift = torch.empty(1, 3, 2).uniform_(-0.08 * 32, 0.08 * 32, generator=generator(5))[0].numpy()
    matrix = cv2.getAffineTransform(corners, corners + shift)
    expected = cv2.warpAffine(images[0, 0].numpy(), matrix, (32, 32), borderMode=cv2.BORDER_REFLECT_101)
    # OpenCV rounds positions to 1/32 of a pixel.
    assert np.abs(ours.numpy() - expected).max() < 0.03


def test_the_displacements_of_the_elastic_transform_are_scipys() -> None:
    images, draws = pictures(b=1, c=1).double(), generator(5)
    ours = kinds.elastic_transform(images, generator(5), 0.08, 0.05, 0.0)[0, 0]
    torch.empty(1, 3, 2).double().uniform_(generator=draws)  # for the affine part, which is the identity here
    noise = torch.empty(2, 32, 32).double().uniform_(-1, 1, generator=draws).numpy()
    right, down = (0.08 * 32 * ndimage.gaussian_filter(n, 0.05 * 32, mode="reflect", truncate=3) for n in noise)
    rows, columns = np.mgrid[:32, :32]
    at = [rows + down, columns + right]
    expected = ndimage.map_coordinates(images[0, 0].numpy(), at, order=1, mode="reflect")
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_plasma_is_the_diamond_square_algorithm() -> None:
    draws, n = generator(3), 8
    ours = filters.plasma(1, n, 2.0, torch.zeros(0).double(), generator(3))[0]
    field, step, wobble = np.zeros((n, n)), n, 100.0

    def noise(count: int) -> np.ndarray:
        values = torch.empty(1, count, count).double().uniform_(-wobble, wobble, generator=draws)
        return wobble * values[0].numpy()

    while step >= 2:
        half, count = step // 2, n // step
        at = lambda y, x: field[y % n, x % n]  # noqa: E731
        for offsets, (dy, dx) in (
            ([(-1, -1), (-1, 1), (1, -1), (1, 1)], (half, half)),
            ([(-1, 0), (1, 0), (0, -1), (0, 1)], (0, half)),
            ([(-1, 0), (1, 0), (0, -1), (0, 1)], (half, 0)),
        ):
            extra = noise(count)
            for i in range(count):
                for j in range(count):
                    y, x = i * step + dy, j * step + dx
                    field[y, x] = sum(at(y + half * a, x + half * b) for a, b in offsets) / 4 + extra[i, j]
        step, wobble = half, wobble / 2
    expected = (field - field.min()) / (field.max() - field.min())
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_fog_keeps_the_brightest_value_and_hides_the_image() -> None:
    images = pictures()
    hazy = corrupt(images, "fog", 5, generator=generator())
    brightest = images.amax((1, 2, 3))
    assert (hazy.amax((1, 2, 3)) <= brightest + 1e-6).all()
    haze = hazy * ((brightest + 1.5) / brightest).view(-1, 1, 1, 1) - images
    assert haze.min() >= -1e-5
    assert haze.max() <= 1.5 + 1e-5
    torch.testing.assert_close(haze[:, 0], haze[:, 2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("h", "w", "reach", "rounds"), [(32, 32, 1, 2), (16, 23, 2, 3), (40, 12, 4, 2)])
def test_glass_is_the_published_program(h: int, w: int, reach: int, rounds: int) -> None:
    """Which swaps views of an array, and so copies."""
    images, draws = pictures(b=2, h=h, w=w), generator(7)
    expected = images.permute(0, 2, 3, 1).numpy().copy()
    for _ in range(rounds):
        down, right = (torch.randint(-reach, reach, (2, h, w), generator=draws) for _ in range(2))
        for k, x in enumerate(expected):
            for r in range(h - reach, reach, -1):
                for s in range(w - reach, reach, -1):
                    other = r + down[k, r, s], s + right[k, r, s]
                    x[r, s], x[other] = x[other], x[r, s]
    ours = kinds.glass_blur(images, generator(7), 0.05, reach, rounds)
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


def test_glass_shows_nothing_but_pixels_of_the_image_from_nearby() -> None:
    position = torch.arange(32.0).view(1, 1, 1, 32).expand(1, 1, 32, 32) / 31
    moved = 31 * (kinds.glass_blur(position, generator(), 0.05, 1, 1) - position).abs()
    torch.testing.assert_close(moved, moved.round(), rtol=0, atol=1e-4)
    assert moved[..., 0].max() < 1e-4, "the outermost pixels are copied from only"
    assert 0.3 < moved.mean() < 1.5


def test_glass_blurs_before_and_after() -> None:
    """Where the reach leaves no pixel to be moved, that is all it does."""
    image = pictures(b=1, c=1, h=9, w=12).double()
    ours = kinds.glass_blur(image, generator(), 0.7, 9, 2)[0, 0]
    once = ndimage.gaussian_filter(image[0, 0].numpy(), 0.7, mode="nearest")
    np.testing.assert_allclose(ours.numpy(), ndimage.gaussian_filter(once, 0.7, mode="nearest"), atol=1e-12)


def test_flakes_are_what_reaches_the_threshold() -> None:
    black, draws = torch.zeros(2, 3, 16, 16), generator(4)
    # Neither enlarged nor smeared.
    snowy = kinds.snow(black, generator(4), 0.5, 0.3, 1.0, 0.6, 8, 1e-3, 1.0)
    noise = 0.5 + 0.3 * torch.empty(2, 1, 16, 16).normal_(generator=draws)
    flakes = (noise * (noise >= 0.6)).clamp(0, 1)
    torch.testing.assert_close(snowy, (flakes + flakes.rot90(2, (2, 3))).expand(2, 3, 16, 16))


def test_fog_is_as_bright_as_each_image() -> None:
    grey = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    haze = filters.plasma(2, 16, 2.0, grey, generator(3))[:, None]
    c = grey[:, :1, :1, :1]
    torch.testing.assert_close(kinds.fog(grey, generator(3), 1.5, 2.0), (grey + 1.5 * haze) * c / (c + 1.5))


def test_every_image_is_smeared_in_a_direction_of_its_own() -> None:
    same = pictures(b=1).expand(6, 3, 32, 32)
    for name in ("motion_blur", "snow"):
        found = corrupt(same, name, 3, generator=generator(1))
        assert not any(torch.equal(a, b) for a, b in pairwise(found))


def test_ice_is_slightly_blue() -> None:
    ice = kinds.frost(torch.zeros(1, 3, 16, 16), generator(), 1.0, 1.0)[0]
    torch.testing.assert_close(ice, ice[2:] * torch.tensor([0.85, 0.95, 1.0]).view(3, 1, 1))


def test_frost_is_veins_and_clouds_over_the_darkened_image() -> None:
    images, draws = pictures(b=2, h=16, w=12), generator(3)
    ours = kinds.frost(images, generator(3), 0.8, 0.6)
    veins, clouds = (filters.plasma(2, 16, decay, images, draws)[:, None, :, :12] for decay in (1.6, 2.0))
    # Brightest where the fractal is 1/2.
    ice = 0.7 * (2 * torch.minimum(veins, 1 - veins)) ** 3 + 0.3 * clouds
    torch.testing.assert_close(ours, 0.8 * images + 0.6 * ice * torch.tensor([0.85, 0.95, 1.0]).view(3, 1, 1))


def test_the_constants_are_those_of_the_data_set_nearest_in_size() -> None:
    sides = {"cifar": 32, "tinyimagenet": 64, "imagenet": 224}
    for side in range(8, 400):
        nearest = min(sides, key=lambda name: abs(math.log(side / sides[name])))
        assert constants.constants_for(side, side) == nearest
        assert constants.constants_for(side, side + 100) == constants.constants_for(side + 100, side) == nearest


def test_snow_falls_on_black_and_leaves_white() -> None:
    black, white = torch.zeros(8, 3, 32, 32), torch.ones(8, 3, 32, 32)
    flakes = corrupt(black, "snow", 5, generator=generator())
    assert flakes.mean() > 0.1
    assert torch.equal(flakes[:, 0], flakes[:, 1])
    torch.testing.assert_close(flakes, flakes.flip(-1, -2))
    assert torch.equal(corrupt(white, "snow", 5, generator=generator()), white)


def test_what_snow_covers_is_as_bright_as_its_luma() -> None:
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)
    for value in (0.2, 1.0):
        colours = value * torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 16, 16)
        # Nothing reaches the threshold of flakes.
        covered = kinds.snow(colours, generator(), 0.0, 0.0, 1.0, 1.0, 10, 4, 0.8)
        whiter = (0.5 + 1.5 * value * luma).expand(colours.shape)
        # A pure red or blue is brighter than that already.
        whiter = torch.where(colours > whiter, colours, whiter)
        torch.testing.assert_close(covered, 0.8 * colours + 0.2 * whiter)


def test_snow_falls_down_and_motion_goes_sideways() -> None:
    noise = torch.rand(40, 1, 32, 32, generator=generator())
    streaks = {"down": corrupt(0 * noise, "snow", 3, generator=generator())}
    streaks["across"] = corrupt(noise, "motion_blur", 3, generator=generator(1))
    for direction, images in streaks.items():
        down, across = (images.diff(dim=dim).square().mean((1, 2, 3)) for dim in (2, 3))
        smoother = down < across if direction == "down" else across < down
        assert smoother.float().mean() > 0.9, direction


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(2, 3, 32, 32), ("fogg", 1), "corruption must be one of gaussian_noise, .* got 'fogg'"),
        (torch.rand(2, 3, 32, 32), ("fog", 0), "severity must be 1, 2, 3, 4 or 5, got 0"),
        (torch.rand(2, 3, 32, 32) * 255, ("fog", 1), r"must lie in \[0, 1\], got values from .* divide bytes by 255"),
        (torch.rand(2, 3, 32, 32) - 1, ("fog", 1), r"leave the normalisation to the model"),
        (torch.rand(2, 3, 7, 32), ("fog", 1), r"at least 8 pixels, got \(2, 3, 7, 32\)"),
        (torch.rand(2, 4, 32, 32), ("fog", 1), r"\(b, 1 or 3, height, width\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), ("fog", 1), "got torch.int64"),
    ],
)
def test_errors_say_what_came(images: Tensor, options: tuple[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(images, *options)
    with pytest.raises(ValueError, match="constants must be one of cifar, tinyimagenet, imagenet, got 'svhn'"):
        corrupt(torch.rand(1, 3, 32, 32), "fog", 1, constants="svhn")  # type: ignore[arg-type]
