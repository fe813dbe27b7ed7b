"""Boxes move with the pixels, and examples depend on nothing but seed, epoch and number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from multimix.data.boxes import BoxedImage, NamedBox
from multimix.data.pictures import UnreadableImageError
from multimix.detection import DetectionImages
from multimix.random import derive_seed, lending


@pytest.fixture
def images(tmp_path: Path) -> list[BoxedImage]:
    """White rectangles on black."""
    made = []
    for k, edges in enumerate([(10, 20, 40, 50), (50, 5, 85, 45), (0, 0, 25, 60), (30, 10, 95, 55)]):
        picture = Image.new("RGB", (100, 60))
        picture.paste((255, 255, 255), edges)
        picture.save(tmp_path / f"{k}.png")
        made.append(BoxedImage(tmp_path / f"{k}.png", 60, 100, (NamedBox("a" if k % 2 else "b", *map(float, edges)),)))
    return made


@pytest.mark.parametrize("size", [None, 80])
@pytest.mark.parametrize("augment", ["none", "flip", "ssd"])
def test_boxes_move_with_the_pixels(images: list[BoxedImage], augment: str, size: int | None) -> None:
    loaded = DetectionImages(images, ["a", "b"], augment=augment, size=size, seed=3)  # type: ignore[arg-type]
    looks, lost = set(), 0
    for epoch in range(8):
        for k, (pixels, targets) in enumerate(loaded.batches(epoch, torch.arange(4).split(1))):
            if not len(targets[0]["labels"]):
                lost += 1  # zoomed out and cut to less than a pixel
                continue
            image, (left, top, right, bottom) = pixels[0], targets[0]["boxes"][0].tolist()
            assert targets[0]["labels"].tolist() == [2 - k % 2]
            assert image.min() >= 0
            assert image.max() <= 1
            if size is not None:
                assert image.shape == (3, size, size)
            middle = image[:, int((top + bottom) / 2), int((left + right) / 2)]
            # Colours change, but by the same rule in the whole image.
            inside = (image - middle[:, None, None]).abs().amax(dim=0) < 0.1
            rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
            seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert (seen - torch.tensor([left, top, right, bottom])).abs().max() <= (0 if size is None else 1.5) + 1
            looks.add((k, round(left), round(right)))
    assert (len(looks) > 4) == (augment != "none")
    assert lost <= (2 if augment == "ssd" else 0)


def test_the_augmentation_of_ssd_is_torchvisions(images: list[BoxedImage]) -> None:
    """In the order of its reference training, but for the colours, which come last."""
    steps = [
        v2.RandomZoomOut(fill=[123, 117, 104]), v2.RandomIoUCrop(), v2.RandomHorizontalFlip(),
        v2.Resize((40, 40), antialias=True), v2.SanitizeBoundingBoxes(), v2.RandomPhotometricDistort(),
    ]  # fmt: skip
    loaded = DetectionImages(images, ["a", "b"], augment="ssd", size=40, seed=3)
    for epoch in range(3):
        ((found, targets),) = loaded.batches(epoch, [torch.arange(4)])
        for k, image in enumerate(images):
            pixels = tv_tensors.Image(torch.from_numpy(np.array(Image.open(image.path))).permute(2, 0, 1))
            edges = tv_tensors.BoundingBoxes([image.boxes[0].edges], format="XYXY", canvas_size=(60, 100))
            target = {"boxes": edges, "labels": torch.tensor([2 - k % 2])}
            with lending(derive_seed(3, epoch, k, "augment boxes")):
                for step in steps:
                    pixels, target = step(pixels, target)
            assert torch.equal(found[k], pixels.as_subclass(torch.Tensor) / 255)
            assert torch.equal(targets[k]["boxes"], target["boxes"].as_subclass(torch.Tensor))


def test_pictures_are_read_as_they_are_stored_which_is_what_boxes_refer_to(tmp_path: Path) -> None:
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.new("RGB", (100, 60)).save(tmp_path / "lying.jpg", exif=lying)
    image = BoxedImage(tmp_path / "lying.jpg", 60, 100, (NamedBox("a", 70.0, 10.0, 95.0, 50.0),))
    ((pixels,), _) = next(DetectionImages([image], ["a"]).batches(0, [torch.arange(1)]))
    assert pixels.shape == (3, 60, 100)


def test_an_example_depends_on_seed_epoch_and_number_alone(images: list[BoxedImage]) -> None:
    def look(order: list[list[int]], epoch: int = 0, **options: int) -> dict[int, torch.Tensor]:
        loaded = DetectionImages(images, ["a", "b"], augment="ssd", size=40, **{"seed": 0, **options})
        found = {}
        for share, (pixels, _) in zip(order, loaded.batches(epoch, [torch.tensor(o) for o in order]), strict=True):
            found.update(zip(share, pixels, strict=True))
        return found

    state = torch.get_rng_state()
    first = look([[0, 1], [2, 3]])
    for other in (look([[3], [1], [0, 2]]), look([[0, 1], [2, 3]], workers=2)):
        assert all(torch.equal(first[k], other[k]) for k in range(4))
    for other in (look([[0, 1, 2, 3]], epoch=1), look([[0, 1, 2, 3]], seed=1)):
        assert not any(torch.equal(first[k], other[k]) for k in range(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_grey_images_and_images_without_boxes(images: list[BoxedImage]) -> None:
    empty = BoxedImage(images[0].path, 60, 100, ())
    loaded = DetectionImages([images[0], empty], ["a", "b"], grey=True)
    pixels, targets = next(loaded.batches(0, [torch.arange(2)]))
    assert [image.shape for image in pixels] == [(1, 60, 100)] * 2
    assert [target["boxes"].shape for target in targets] == [(1, 4), (0, 4)]
    assert targets[1]["labels"].dtype == torch.int64


@pytest.mark.parametrize("side", [1, 3, 17])
def test_tiny_images_are_not_cut_to_nothing(side: int, tmp_path: Path) -> None:
    Image.new("RGB", (side, side)).save(tmp_path / "tiny.png")
    tiny = BoxedImage(tmp_path / "tiny.png", side, side, (NamedBox("a", 0, 0, side, side),))
    loaded = DetectionImages([tiny], ["a"], augment="ssd", size=32)
    for epoch in range(20):
        for pixels, targets in loaded.batches(epoch, [torch.arange(1)]):
            assert pixels[0].shape == (3, 32, 32)
            assert targets[0]["boxes"].shape[1] == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(images: list[BoxedImage], workers: int) -> None:
    images[1].path.write_bytes(b"no image")
    loaded = DetectionImages(images, ["a", "b"], workers=workers)
    with pytest.raises(UnreadableImageError, match=r"1\.png"):
        list(loaded.batches(0, [torch.arange(4)]))


def test_an_unknown_augmentation_is_refused(images: list[BoxedImage]) -> None:
    with pytest.raises(ValueError, match=r"augment must be one of none, flip, ssd, got 'crop'"):
        DetectionImages(images, ["a", "b"], augment="crop")  # type: ignore[arg-type]
