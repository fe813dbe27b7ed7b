"""The containers refuse what does not fit, and hand on what does."""

from __future__ import annotations

import pickle

import pytest
import torch

from multimix.data import ArrayDataset, DataSplits, FileDataset


def images(count: int = 4, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.zeros(count, channels, size, size, dtype=torch.uint8)


def test_labels_become_int64_and_subsets_keep_everything_together() -> None:
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    dataset = ArrayDataset(
        pixels,
        torch.arange(5, dtype=torch.uint8),
        extras={"domain": torch.arange(5.0)},
        image_size=16,
    )
    for order in ([4, 1], [2, 0, 3, 1, 4]):
        part = dataset.subset(torch.tensor(order))
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == part.images[:, 0, 0, 0].tolist() == part.extras["domain"].tolist() == order
        assert part.image_size == 16


def test_labels_that_are_a_column_of_a_table_have_the_digest_of_any_others() -> None:
    fine = torch.tensor([3, 1, 0, 2])
    table = torch.stack([fine, fine // 2], dim=1)
    assert ArrayDataset(images(), table[:, 0]).digest() == ArrayDataset(images(), fine).digest()
    files = [FileDataset("x", list("abcd"), labels, image_size=8).digest() for labels in (table[:, 0], fine)]
    assert files[0] == files[1]


def test_arrays_have_their_channels_and_files_are_decoded_in_colour() -> None:
    assert [ArrayDataset(images(channels=c), torch.zeros(4).long()).channels for c in (1, 3)] == [1, 3]
    assert FileDataset("x", ["a.png"], torch.zeros(1).long(), image_size=8).channels == 3


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda: ArrayDataset(images().float(), torch.zeros(4).long()), TypeError, "torch.float32"),
        (lambda: ArrayDataset(images(), torch.zeros(4)), TypeError, "integer class indices"),
        (lambda: ArrayDataset(images(), torch.zeros(4, dtype=torch.bool)), TypeError, "torch.bool"),
        (lambda: ArrayDataset(images(), torch.zeros(3).long()), ValueError, r"\(4,\), got \(3,\)"),
        (lambda: ArrayDataset(images()[:, :, :4], torch.zeros(4).long()), ValueError, r"\(4, 3, 4, 8\)"),
        (lambda: ArrayDataset(images(channels=4), torch.zeros(4).long()), ValueError, r"\(4, 4, 8, 8\)"),
        (lambda: ArrayDataset(images(), torch.tensor([0, 1, -1, 0])), ValueError, "got -1 for example 2"),
        (lambda: ArrayDataset(images(0), torch.zeros(0).long()), ValueError, "at least one image"),
        (lambda: FileDataset("x", [], torch.zeros(0).long(), image_size=8), ValueError, "at least one image"),
        (lambda: FileDataset("x", ["a"], torch.zeros(2).long(), image_size=8), ValueError, r"\(1,\)"),
        (
            lambda: ArrayDataset(images(), torch.zeros(4).long(), extras={"domain": torch.zeros(3)}),
            ValueError,
            "'domain' must hold one row for each of the 4 images, got 3",
        ),
    ],
)
def test_bad_input_is_one_clear_error(bad, error, message) -> None:
    with pytest.raises(error, match=message):
        bad()


def test_file_names_survive_packing_subsets_and_pickling() -> None:
    names = ["a/1.png", "", "ü/ж.jpg", "c d/\udcff.png", "e"]
    dataset = FileDataset("root", names, torch.arange(5), image_size=8, extras={"k": torch.arange(5)})
    assert [dataset.name(i) for i in range(5)] == names
    copy = pickle.loads(pickle.dumps(dataset.subset(torch.tensor([3, 0]))))
    assert [copy.name(i) for i in range(2)] == [names[3], names[0]]
    assert copy.labels.tolist() == copy.extras["k"].tolist() == [3, 0]


def splits(**changes: object) -> DataSplits:
    dataset = ArrayDataset(images(), torch.tensor([0, 1, 2, 1]))
    values = {"train": dataset, "val": None, "test": dataset, "class_names": ("a", "b", "c"), "image_size": 8}
    return DataSplits(**{**values, "mean": (0.5,) * 3, "std": (0.5,) * 3, **changes})  # type: ignore[arg-type]


def test_a_label_out_of_range_names_the_split_and_the_example() -> None:
    assert splits().num_classes == 3
    with pytest.raises(ValueError, match="label 2 of train example 2 is out of range: there are 2 classes"):
        splits(class_names=("a", "b"))


def test_splits_of_different_image_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="16 pixels in test and image_size=8"):
        splits(test=ArrayDataset(images(size=16), torch.zeros(4).long()))
