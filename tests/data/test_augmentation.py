"""Vectorised augmentation against one image at a time, and its draws against what they should be."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from multimix.data import augmentation


def batch(count: int, size: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("augment", ["crop", "crop-flip"])
@pytest.mark.parametrize(("size", "channels", "margin"), [(32, 3, 4), (8, 1, 1), (5, 3, 0), (64, 3, 4), (224, 1, 14)])
def test_shifted_crops_equal_torchvision_one_by_one(augment, size, channels, margin) -> None:
    images = batch(50, size, channels)
    before = images.clone()
    draws = augmentation.draw(augment, 50, size, torch.Generator().manual_seed(1))
    ours = augmentation.apply(augment, images, draws)
    for image, one, (top, left, flip) in zip(images, ours, draws.tolist(), strict=True):
        expected = tv.crop(tv.pad(image, [margin] * 4), top, left, size, size)
        expected = tv.horizontal_flip(expected) if flip else expected
        assert torch.equal(one, expected / 255)
    assert torch.equal(images, before)


def test_shift_draws_cover_every_offset_evenly_and_flip_half() -> None:
    draws = augmentation.draw("crop-flip", 81_000, 32, torch.Generator().manual_seed(2))
    counts = torch.bincount(draws[:, 0] * 9 + draws[:, 1], minlength=81)
    assert len(counts) == 81
    # binomial(81000, 1/81): standard deviation 31.4
    assert (counts - 1000).abs().max() < 5 * 31.4
    assert abs(draws[:, 2].float().mean() - 0.5) < 5 * 0.5 / 81_000**0.5
    assert augmentation.draw("crop", 100, 32, torch.Generator()).T[2].sum() == 0


@pytest.mark.parametrize("size", [32, 8, 50])
def test_resized_crops_equal_torchvision_one_by_one(size) -> None:
    images = batch(40, size)
    draws = augmentation.draw("random-resized-crop", 40, size, torch.Generator().manual_seed(3))
    ours = augmentation.apply("random-resized-crop", images, draws)
    for image, one, (top, left, height, width, flip) in zip(images, ours, draws.tolist(), strict=True):
        expected = tv.resized_crop(image / 255, top, left, height, width, [size, size], antialias=True)
        expected = tv.horizontal_flip(expected) if flip else expected
        torch.testing.assert_close(one, expected, atol=2e-5, rtol=0)


def test_boxes_are_distributed_as_torchvision_draws_them() -> None:
    size, count = 32, 20_000
    ours = augmentation.draw("random-resized-crop", count, size, torch.Generator().manual_seed(4))[:, :4].double()
    picture = torch.zeros(3, size, size)
    transform = v2.RandomResizedCrop(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        params = [transform.make_params([picture]) for _ in range(count)]
    theirs = torch.tensor([[p[k] for k in ("top", "left", "height", "width")] for p in params]).double()
    top, left, height, width = ours.T
    assert (ours >= 0).all()
    assert (top + height <= size).all()
    assert (left + width <= size).all()
    # Kolmogorov-Smirnov distance of two samples of this size: below 0.02 with probability above 0.999
    for mine, other in zip(ours.T, theirs.T, strict=True):
        grid = torch.arange(size + 1)
        distance = (mine[:, None] <= grid).double().mean(0) - (other[:, None] <= grid).double().mean(0)
        assert distance.abs().max() < 0.02


def test_no_box_fits_falls_back_to_the_whole_image(monkeypatch) -> None:
    monkeypatch.setattr(augmentation, "AREA", (2.0, 3.0))
    draws = augmentation.draw("random-resized-crop", 5, 16, torch.Generator())
    assert draws[:, :4].tolist() == [[0, 0, 16, 16]] * 5


def test_none_only_scales() -> None:
    images = batch(3, 8)
    draws = augmentation.draw("none", 3, 8, torch.Generator())
    assert torch.equal(augmentation.apply("none", images, draws), images.float() / 255)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="crop-flip, random-resized-crop, random-resized-crop-color, got 'flip'"):
        augmentation.check_augment("flip")
