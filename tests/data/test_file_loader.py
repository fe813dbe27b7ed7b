"""Loaders of images in files, with and without worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from multimix.data import ArrayDataset, FileDataset, UnreadableImageError, loader
from multimix.random import derive_seed


@pytest.fixture
def photos(tmp_path: Path, write_image) -> FileDataset:
    names = [f"{i}.jpg" for i in range(14)]
    for i, name in enumerate(names):
        write_image(tmp_path / name, 60 + 3 * i, 50 + 5 * (i % 3), i)
    return FileDataset(tmp_path, names, torch.arange(14), image_size=112, extras={"k": torch.arange(14)})


def images(dataset: FileDataset, epoch: int = 0, start: int = 0, **options) -> torch.Tensor:
    options = {"batch_size": 4, "train": True, "workers": 0, **options}
    return torch.cat([batch.images for batch in loader(dataset, **options).batches(epoch, start)])


def test_evaluation_images_are_those_of_torchvision(tmp_path: Path, tree) -> None:
    tree(tmp_path, {"all": {"b": 3, "a": 2}}, width=150, height=130, suffix=".jpg")
    fit = [v2.Resize(128, antialias=True), v2.CenterCrop(112), v2.PILToTensor()]
    reference = ImageFolder(tmp_path / "all", v2.Compose([*fit, v2.ToDtype(torch.float32)]))
    names = [os.path.relpath(path, tmp_path) for path, _ in reference.imgs]
    dataset = FileDataset(tmp_path, names, torch.tensor(reference.targets), image_size=112)
    (batch,) = loader(dataset, batch_size=10, train=False, workers=0).batches(0)
    expected = torch.stack([image for image, _ in reference])
    assert torch.equal(batch.images, expected / 255)
    assert batch.targets.tolist() == [0, 0, 1, 1, 1]


def test_small_images_are_used_whole(tmp_path: Path, write_image) -> None:
    write_image(tmp_path / "a.png", 64, 64, 0)
    write_image(tmp_path / "b.png", 128, 96, 1)
    dataset = FileDataset(tmp_path, ["a.png", "b.png"], torch.zeros(2).long(), image_size=64)
    (batch,) = loader(dataset, batch_size=2, train=False, workers=0).batches(0)
    exact = v2.functional.pil_to_tensor(Image.open(tmp_path / "a.png"))
    assert torch.equal(batch.images[0], exact / 255)
    shrunk = v2.functional.pil_to_tensor(Image.open(tmp_path / "b.png").resize((85, 64), Image.Resampling.BILINEAR))
    left = round((85 - 64) / 2)
    assert torch.equal(batch.images[1], shrunk[:, :, left : left + 64] / 255)


@pytest.mark.parametrize("augment", ["crop-flip", "random-resized-crop"])
def test_augmentation_is_torchvisions_with_a_seed_for_each_example(photos: FileDataset, augment) -> None:
    steps: dict[str, list[object]] = {
        "crop-flip": [v2.Resize(128), v2.CenterCrop(112), v2.RandomCrop(112, padding=7)],
        "random-resized-crop": [v2.RandomResizedCrop(112)],
    }
    transform = v2.Compose([*steps[augment], v2.RandomHorizontalFlip(), v2.PILToTensor()])
    for batch in loader(photos, batch_size=7, train=True, augment=augment, seed=3, workers=0).batches(5):
        for image, index in zip(batch.images, batch.targets.tolist(), strict=True):
            torch.manual_seed(derive_seed(3, 5, index, "augment"))
            picture = Image.open(photos.path(index)).convert("RGB")
            assert torch.equal(image, transform(picture) / 255)


def test_crops_without_flips_are_parts_of_the_image_as_it_is(tmp_path: Path) -> None:
    """Brightness rises from left to right, and so it does in every crop, but for the black border."""
    rising = torch.linspace(1, 255, 32).byte().expand(3, 32, 32)
    v2.functional.to_pil_image(rising).save(tmp_path / "a.png")
    dataset = FileDataset(tmp_path, ["a.png"] * 20, torch.zeros(20).long(), image_size=32)
    for image in images(dataset, augment="crop", image_size=32, batch_size=20):
        row = image[0, 16]
        assert (row[row > 0].diff() > 0).all()
    turned = images(dataset, augment="crop-flip", image_size=32, batch_size=20)[:, 0, 16]
    assert {bool((row[row > 0].diff() < 0).all()) for row in turned} == {False, True}


def test_colours_change_as_in_the_imagenet_code_of_the_lineage(photos: FileDataset) -> None:
    """torchvision's jitter, then one colour for all pixels: in each channel sum_k axis_k scale_k z_k, z ~ N(0, 0.1)."""
    cut = v2.Compose([v2.RandomResizedCrop(112), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4)])
    axes = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
    options = {"augment": "random-resized-crop-color", "seed": 3, "workers": 0}
    for batch in loader(photos, batch_size=7, train=True, **options).batches(5):
        for image, index in zip(batch.images, batch.targets.tolist(), strict=True):
            torch.manual_seed(derive_seed(3, 5, index, "augment"))
            before = v2.functional.pil_to_tensor(cut(Image.open(photos.path(index)).convert("RGB"))).double() / 255
            z = (0.1 * torch.randn(3)).tolist()
            colour = [sum(a * s * k for a, s, k in zip(row, (0.2175, 0.0188, 0.0045), z, strict=True)) for row in axes]
            expected = (before + torch.tensor(colour).double().view(3, 1, 1)).clamp(0, 1)
            torch.testing.assert_close(image.double(), expected, atol=0.502 / 255, rtol=0)


def test_colours_are_for_files() -> None:
    small = ArrayDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
    with pytest.raises(ValueError, match="is for images in files"):
        loader(small, batch_size=2, train=True, augment="random-resized-crop-color")


@pytest.mark.parametrize("augment", ["none", "crop", "random-resized-crop-color"])
def test_workers_change_nothing(photos: FileDataset, augment, global_state) -> None:
    with global_state():
        alone = loader(photos, batch_size=4, train=True, augment=augment, workers=0)
        helped = loader(photos, batch_size=4, train=True, augment=augment, workers=2)
        for epoch, start in ((0, 0), (1, 2), (0, 1)):
            for a, b in zip(alone.batches(epoch, start), helped.batches(epoch, start), strict=True):
                assert torch.equal(a.images, b.images)
                assert torch.equal(a.targets, b.targets)
                assert torch.equal(b.extras["k"], b.targets)


def test_more_workers_than_cores_are_no_reason_to_warn(photos: FileDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)  # which PyTorch counts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(images(photos, workers=2)) == 12


def test_ranks_epochs_and_starts(photos: FileDataset) -> None:
    options = {"augment": "random-resized-crop", "batch_size": 6}
    whole = images(photos, **options)
    parts = [images(photos, rank=rank, world_size=3, **options) for rank in range(3)]
    merged = torch.cat([part[2 * k : 2 * k + 2] for k in range(2) for part in parts])
    assert torch.equal(whole, merged)
    assert torch.equal(whole[6:], images(photos, start=1, **options))
    assert not torch.equal(whole, images(photos, epoch=1, **options))


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 100).save(tmp_path / "grey.png")
    Image.new("RGBA", (16, 16), (10, 20, 30, 128)).save(tmp_path / "clear.png")
    Image.new("P", (16, 16), 0).save(tmp_path / "palette.png")
    names = ["grey.png", "clear.png", "palette.png"]
    dataset = FileDataset(tmp_path, names, torch.zeros(3).long(), image_size=16)
    (batch,) = loader(dataset, batch_size=3, train=False, workers=0).batches(0)
    assert (batch.images[:, :, 0, 0] * 255).round().tolist() == [[100] * 3, [10, 20, 30], [0] * 3]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "text", "missing", "empty"])
def test_an_unreadable_image_is_one_line_that_names_the_file(photos: FileDataset, workers, damage) -> None:
    path = photos.path(3)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-200])
        case "text":
            path.write_text("<html>404</html>")
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    message = r"^cannot read the image .*/3\.jpg: [^\n]*bad_images='skip' \(--bad-images skip\)$"
    with pytest.raises(UnreadableImageError, match=message):
        images(photos, workers=workers, train=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_of_the_machine_is_not_blamed_on_the_image(photos: FileDataset, workers) -> None:
    photos.path(3).unlink()
    photos.path(3).mkdir()
    with pytest.raises(IsADirectoryError, match=r"^[^\n]*3\.jpg'$"):
        images(photos, workers=workers, train=False)


def test_an_abandoned_epoch_leaves_the_workers_in_order(photos: FileDataset) -> None:
    batches = loader(photos, batch_size=2, train=True, workers=1)
    next(batches.batches(0))
    found = torch.cat([batch.images for batch in batches.batches(1)])
    assert torch.equal(found, images(photos, epoch=1, batch_size=2))


def test_two_epochs_at_once_are_refused_rather_than_mixed_up(photos: FileDataset) -> None:
    batches = loader(photos, batch_size=2, train=True, workers=1)
    first = batches.batches(0)
    next(first)
    next(batches.batches(1))
    with pytest.raises(RuntimeError, match="make a second loader"):
        next(first)


@pytest.fixture(params=["fork", "forkserver"])
def default_start_method(request, monkeypatch) -> Iterator[None]:
    """Linux's default until, and since, Python 3.14."""
    others = [name for name in multiprocessing.get_all_start_methods() if name != request.param]
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: [request.param, *others])
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("default_start_method")
def test_workers_are_forked_by_default_and_started_as_chosen(photos: FileDataset) -> None:
    def context() -> str:
        chosen = loader(photos, batch_size=4, train=True, workers=1)._reader._reader._loader.multiprocessing_context
        return multiprocessing.get_start_method() if chosen is None else chosen.get_start_method()

    default = multiprocessing.get_all_start_methods()[0]
    assert context() == "fork"
    for other in {"spawn", "forkserver"} - {default}:
        multiprocessing.set_start_method(other, force=True)
        assert context() == other


@pytest.mark.usefixtures("default_start_method")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_workers_leave_signals_to_the_parent(name: str, photos: FileDataset) -> None:
    batches = loader(photos.subset(torch.arange(14).repeat(20)), batch_size=1, train=True, workers=1)
    found = batches.batches(0)
    next(found)
    [worker] = batches._reader._reader._loader._iterator._workers
    # From another process: the parent's own SIGTERM is meant.
    subprocess.run(
        [sys.executable, "-c", f"import os; os.kill({worker.pid}, {int(getattr(signal, name))})"], check=True
    )
    assert sum(1 for _ in found) == 14 * 20 - 1
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0
