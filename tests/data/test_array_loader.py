"""Loaders of images in memory. What an example is can be read off its pixels, so order is checked independently."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from multimix.data import ArrayDataset, Loader, loader, loaders, readers
from multimix.data.readers import ArrayReader
from multimix.random import make_generator


def numbered(count: int, size: int = 8) -> ArrayDataset:
    """Image i is evenly grey of value i + 1, so that it differs from black borders."""
    images = torch.arange(1, count + 1, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, size, size).clone()
    return ArrayDataset(images, torch.arange(count) % 7, extras={"number": torch.arange(count)})


def pictures(count: int = 20, size: int = 16) -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return ArrayDataset(images, torch.arange(count))


def numbers(batches: Loader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [[round(float(image.max()) * 255) - 1 for image in images] for images, *_ in batches.batches(epoch, start)]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 50), batch_size=st.integers(1, 60), train=st.booleans(), epoch=st.integers(0, 3))
def test_an_epoch_has_every_example_once(count, batch_size, train, epoch) -> None:
    batches = loader(numbered(count), batch_size=batch_size, train=train)
    found = numbers(batches, epoch)
    flat = [number for batch in found for number in batch]
    assert len(found) == len(batches)
    assert len(set(flat)) == len(flat)
    if train:
        size = min(batch_size, count)
        assert [len(batch) for batch in found] == [size] * (count // size)
    else:
        assert flat == list(range(count))
        assert all(len(batch) == batch_size for batch in found[:-1])


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 50),
    per_rank=st.integers(1, 10),
    world_size=st.sampled_from([1, 2, 3]),
    train=st.booleans(),
    augment=st.sampled_from(["none", "crop-flip", "random-resized-crop"]),
)
def test_rank_slices_concatenate_to_the_single_process_batches(count, per_rank, world_size, train, augment) -> None:
    options = {"batch_size": per_rank * world_size, "train": train, "augment": augment if train else "none"}
    if train and min(count, per_rank * world_size) % world_size:
        count += world_size - count % world_size
    whole = list(loader(pictures(count), **options).batches(1))
    parts = [
        list(loader(pictures(count), **options, rank=rank, world_size=world_size).batches(1))
        for rank in range(world_size)
    ]
    if train:
        assert all(len(part) == len(whole) for part in parts)
    for k, batch in enumerate(whole):
        slices = [part[k] for part in parts if k < len(part)]
        assert torch.equal(torch.cat([part.images for part in slices]), batch.images)
        assert torch.equal(torch.cat([part.targets for part in slices]), batch.targets)


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip", "random-resized-crop"])
def test_a_later_start_is_the_same_epoch_without_its_first_batches(augment) -> None:
    options = {"batch_size": 6, "train": True, "augment": augment, "seed": 5}
    whole = list(loader(pictures(), **options).batches(2))
    for start in range(4):
        rest = list(loader(pictures(), **options).batches(2, start))
        assert len(rest) == 3 - start
        for a, b in zip(whole[start:], rest, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.targets, b.targets)


def test_seed_and_epoch_decide_the_order_and_nothing_else_does() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return numbers(loader(numbered(40), batch_size=8, train=True, seed=seed), epoch)

    first = order(0, 0)
    torch.manual_seed(123)
    assert order(0, 0) == first
    assert order(0, 1) != first
    assert order(1, 0) != first
    again = loader(numbered(40), batch_size=8, train=True)
    assert numbers(again, 1) == order(0, 1)
    assert numbers(again, 0) == first


def test_augmentation_follows_the_example_through_any_batch_size_and_changes_with_epoch_and_seed() -> None:
    def augmented(epoch: int, **options) -> torch.Tensor:
        batches = list(loader(pictures(24), train=True, augment="crop-flip", **options).batches(epoch))
        targets = torch.cat([batch.targets for batch in batches])
        return torch.cat([batch.images for batch in batches])[targets.argsort()]

    first = augmented(0, batch_size=4)
    assert torch.equal(first, augmented(0, batch_size=12))
    assert not torch.equal(first, augmented(1, batch_size=4))
    assert not torch.equal(first, augmented(0, batch_size=4, seed=1))


def test_order_and_augmentation_of_every_epoch_have_a_stream_of_their_own(monkeypatch) -> None:
    streams = []

    def noted(*parts: object) -> torch.Generator:
        generator = make_generator(*parts)
        streams.append(generator.initial_seed())
        return generator

    for module in (loaders, readers):
        monkeypatch.setattr(module, "make_generator", noted)
    batches = loader(pictures(), batch_size=5, train=True, augment="crop-flip")
    for epoch in range(3):
        list(batches.batches(epoch))
    assert len(streams) == len(set(streams)) == 6


def test_images_targets_and_extras_belong_together() -> None:
    for images, targets, extras in loader(numbered(30), batch_size=7, train=True, augment="crop").batches(3):
        shown = (images.amax(dim=(1, 2, 3)) * 255).round().long() - 1
        assert torch.equal(extras["number"], shown)
        assert torch.equal(targets, shown % 7)
        assert images.dtype == torch.float32
        assert targets.dtype == torch.int64


def test_another_image_size_is_resized_as_torchvision_does() -> None:
    dataset = pictures(4, size=16)
    for size in (8, 24):
        batch = next(loader(dataset, batch_size=4, train=False, image_size=size).batches(0))
        expected = tv.resize(dataset.images.float() / 255, [size, size], antialias=True)
        torch.testing.assert_close(batch.images, expected, atol=1e-6, rtol=0)
    wants = ArrayDataset(dataset.images, dataset.labels, image_size=24)
    assert next(loader(wants, batch_size=4, train=False).batches(0)).images.shape[-1] == 24


@pytest.mark.parametrize(("side", "size"), [(96, 32), (32, 28), (64, 28)])
def test_white_stays_white_when_images_are_shrunk(side: int, size: int) -> None:
    white = ArrayDataset(torch.full((2, 3, side, side), 255, dtype=torch.uint8), torch.arange(2))
    images = next(loader(white, batch_size=2, train=False, image_size=size).batches(0)).images
    assert images.max() <= 1
    assert images.min() > 1 - 1e-6


def test_global_random_state_and_data_set_are_untouched(global_state) -> None:
    dataset = pictures()
    before = dataset.images.clone()
    with global_state():
        for augment in ("crop-flip", "random-resized-crop"):
            for batch in loader(dataset, batch_size=5, train=True, augment=augment).batches(0):
                batch.images.zero_()
                batch.targets.zero_()
    assert torch.equal(dataset.images, before)
    assert torch.equal(dataset.labels, torch.arange(20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "flip"}, "augment must be one of"),
        ({"train": False, "augment": "crop"}, "got augment='crop' with train=False"),
        ({"batch_size": 0}, "got batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"rank": 2, "world_size": 2}, "between 0 and world_size - 1 = 1, got 2"),
        ({"batch_size": 8, "world_size": 3}, "8 images .* cannot be shared evenly by 3 ranks"),
        ({"batch_size": 99, "world_size": 3}, "20 images .* cannot be shared evenly by 3 ranks"),
    ],
)
def test_bad_arguments_are_one_clear_error(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        loader(pictures(), **{"batch_size": 4, "train": True, **options})


def test_a_start_beyond_the_epoch_is_refused_at_once() -> None:
    batches = loader(pictures(), batch_size=4, train=True)
    assert list(batches.batches(0, 5)) == []
    with pytest.raises(ValueError, match="between 0 and the 5 batches of an epoch, got 6"):
        batches.batches(0, 6)


@pytest.mark.parametrize("augment", ["none", "crop-flip", "random-resized-crop"])
@pytest.mark.parametrize("image_size", [16, 24])
@pytest.mark.parametrize("together", [2, 3, 100])
def test_batches_augmented_together_are_the_same(augment, image_size, together, monkeypatch) -> None:
    """On an accelerator several batches are augmented at once; here, where one at a time is, they are made to be."""
    batches = loader(pictures(23), batch_size=4, train=True, augment=augment, image_size=image_size)
    one_by_one = list(batches.batches(3, start=1))
    monkeypatch.setattr(ArrayReader, "_together", lambda self, batch_bytes: together)
    for a, b in zip(one_by_one, batches.batches(3, start=1), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
