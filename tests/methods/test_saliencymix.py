"""SaliencyMix: the boxes against OpenCV called directly, one image at a time, and the areas read off the pixels."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.methods.conftest import seeded

from multimix.functional import sample_weights
from multimix.methods import SaliencyMix
from multimix.methods.saliencymix import saliency_peaks

cv2 = pytest.importorskip("cv2")


def scenes(b: int, channels: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth noise and one bright spot each, in whole 255ths."""
    generator = seeded(seed)
    coarse = torch.rand(b, channels, 4, 4, generator=generator) * 0.5
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    for image in images:
        y, x = (int(torch.randint(size - 2, (), generator=generator)) for size in (height, width))
        image[:, y : y + 2, x : x + 2] += 0.5
    return (images * 255).round() / 255


def direct_peak(image: torch.Tensor) -> tuple[int, int]:
    pixels = np.moveaxis(np.rint(image.numpy() * 255).astype(np.uint8), 0, -1)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if image.shape[0] == 3 else pixels[..., 0]
    ok, saliency = cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(pixels)
    assert ok
    return np.unravel_index(np.argmax(saliency), saliency.shape)


def boxes(peaks, lam: float, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """The authors' formula: sides cut in whole pixels, halved, clipped."""
    cut_h, cut_w = int(height * math.sqrt(1 - lam)), int(width * math.sqrt(1 - lam))
    clip = lambda edge, size: int(np.clip(edge, 0, size))  # noqa: E731
    rows = [(clip(y - cut_h // 2, height), clip(y + cut_h // 2, height)) for y, _ in peaks]
    columns = [(clip(x - cut_w // 2, width), clip(x + cut_w // 2, width)) for _, x in peaks]
    return [(*row, *column) for row, column in zip(rows, columns, strict=True)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_those_of_opencv(channels: int, per_image: bool, seed: int) -> None:
    b, height, width = 5, 24, 37
    images = scenes(b, channels, height, width, seed)
    kept = images.clone()
    mixed, soft = SaliencyMix(per_image=per_image).mix(images, torch.arange(b), b, seeded(seed))
    replay = seeded(seed)
    lam = float(sample_weights(1, 2, alpha=1.0, generator=replay, dtype=torch.float64)[0, 0])
    partner = torch.randperm(b, generator=replay)
    peaks = [direct_peak(images[k]) for k in partner]
    if not per_image:
        peaks = peaks[:1] * b
    for i, (top, bottom, left, right) in enumerate(boxes(peaks, lam, height, width)):
        expected = images[i].clone()
        expected[:, top:bottom, left:right] = images[partner[i], :, top:bottom, left:right]
        assert torch.equal(mixed[i], expected)
        share = (bottom - top) * (right - left) / (height * width)
        target = torch.zeros(b)
        target[i] += 1 - share
        target[partner[i]] += share
        assert torch.allclose(soft[i], target, atol=1e-6)
    assert torch.equal(images, kept)


def test_pixels_a_little_out_of_range_are_cut_off() -> None:
    """Resampling overshoots. As bytes, what is whiter than white would wrap around to black."""
    images = 1.3 * (scenes(20, 3, 24, 37, 0) - 0.5) + 0.5
    assert images.max() > 1.05
    assert images.min() < -0.05
    assert torch.equal(saliency_peaks(images), saliency_peaks(images.clamp(0, 1)))
    with pytest.raises(ValueError, match=r"needs pixels in \[0, 1\], got \[0, 255\]"):
        saliency_peaks(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2))


def test_red_is_not_blue() -> None:
    images = scenes(20, 3, 32, 32, 0)
    peaks = [tuple(peak) for peak in saliency_peaks(images).tolist()]
    assert peaks == [direct_peak(image) for image in images]
    # The channels weigh differently in the brightness, so the wrong order would show.
    assert peaks != [direct_peak(image) for image in images.flip(1)]


def test_area_is_uniform_when_the_peak_is_central(monkeypatch) -> None:
    """lambda ~ Beta(1, 1), so the area of a box that no border cuts is uniform."""
    size, areas = 64, []
    images = torch.zeros(3, 1, size, size)
    images[:, :, 32, 32] = torch.tensor([0.3, 0.6, 0.9])[:, None]
    monkeypatch.setattr("multimix.methods.saliencymix.saliency_peaks", lambda x: torch.full((len(x), 2), 32))
    for seed in range(400):
        _, soft = SaliencyMix().mix(images, torch.arange(3), 3, seeded(seed))
        changed = [float(1 - soft[i, i]) for i in range(3) if soft[i, i] < 1]
        if changed:
            assert max(changed) == min(changed)
            areas.append(changed[0])
    # Sides are even numbers of pixels: spread the areas over what each stands for.
    sides = np.sqrt(areas) * size + 2 * np.random.default_rng(0).random(len(areas))
    # An image that is its own partner, or a box without pixels, shows no change.
    low = 2 / size
    cdf = lambda s: ((s / size) ** 2 - low**2) / (1 - low**2)  # noqa: E731
    assert stats.kstest(sides, cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (3, 2, 9, 5), (2, 5, 1, 7), (4, 1, 1, 1)])
def test_any_shape_any_float_and_the_global_generator(shape) -> None:
    images = torch.rand(shape, generator=seeded(0))
    state = torch.get_rng_state()
    labels = torch.arange(shape[0])
    first = SaliencyMix().mix(images, labels, shape[0], seeded(1))
    again = SaliencyMix().mix(images, labels, shape[0], seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    doubles = SaliencyMix().mix(images.double(), labels, shape[0], seeded(1))
    assert torch.equal(doubles[0].float(), first[0])
    assert torch.allclose(first[1].sum(1), torch.ones(shape[0]))
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input(monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"needs pixels in \[0, 1\], got \[-2, -2\]"):
        SaliencyMix().mix(torch.full((2, 3, 8, 8), -2.0), torch.arange(2), 2)
    with pytest.raises(ValueError, match=r"needs pixels in \[0, 1\], got \[nan, nan\]"):
        SaliencyMix().mix(torch.full((2, 3, 8, 8), math.nan), torch.arange(2), 2)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace())
    with pytest.raises(ImportError, match="keep only opencv-contrib-python-headless"):
        saliency_peaks(torch.rand(1, 1, 4, 4))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'multimix\[methods\]'"):
        saliency_peaks(torch.rand(1, 1, 4, 4))
