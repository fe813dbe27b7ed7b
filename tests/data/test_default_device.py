"""Data are on the CPU and drawn there, whatever `torch.set_default_device` says; "meta" tensors hold nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from multimix import data
from multimix.data.ood_sets import ood_set


@contextmanager
def another_default() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


def batches(splits: data.DataSplits, **options) -> list[torch.Tensor]:
    loader = data.loader(splits.train, batch_size=4, train=True, seed=3, **options)
    return [part for batch in loader.batches(0) for part in (batch.images, batch.targets)]


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip", "random-resized-crop"])
def test_images_in_memory(augment: str) -> None:
    def read() -> list[torch.Tensor]:
        return batches(data.load("digits", per_class=2), augment=augment)

    wanted = read()
    with another_default():
        found = read()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("image_size", "augment"), [(16, "crop-flip"), (100, "random-resized-crop"), (100, "random-resized-crop-color")]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_images_in_files(image_size: int, augment: str, workers: int, tmp_path: Path, tree) -> None:
    folder = tree(tmp_path, {"train": {"a": 3, "b": 4}, "test": {"a": 1, "b": 1}}, width=20)

    def read() -> list[torch.Tensor]:
        splits = data.load("imagefolder", root=folder, image_size=image_size)
        return batches(splits, augment=augment, workers=workers)

    wanted = read()
    with another_default():
        found = read()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["gaussian-noise", "uniform-noise"])
def test_noise(name: str) -> None:
    def draw() -> torch.Tensor:
        return ood_set(name, image_size=8, limit=5, generator=torch.Generator().manual_seed(0)).images

    wanted = draw()
    with another_default():
        assert torch.equal(draw(), wanted)
