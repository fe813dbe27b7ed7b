"""Any folder of images: what is found in it, what is refused, and what happens to unreadable files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as tv

from multimix.data import ArrayDataset, FileDataset, UnreadableImageError, load, opening, pictures

COUNTS = {"train": {"bee": 4, "ant": 3, "Cat": 5}, "val": {"ant": 2, "bee": 1}, "test": {"ant": 1, "bee": 2, "Cat": 3}}


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("split", ["train", "test"])
def test_order_classes_and_pixels_are_those_of_torchvision(tmp_path: Path, tree, split) -> None:
    root = tree(tmp_path, COUNTS)
    (root / split / "ant" / "notes.txt").write_text("no image")
    (root / split / "ant" / "deeper").mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / split / "ant" / "deeper" / "z.PNG")
    reference = ImageFolder(root / split)
    data = load("imagefolder", root=root)
    found = getattr(data, split)
    assert isinstance(found, ArrayDataset)
    assert list(data.class_names) == reference.classes
    assert found.labels.tolist() == reference.targets
    pixels = np.stack([np.asarray(picture) for picture, _ in reference]).transpose(0, 3, 1, 2)
    assert torch.equal(found.images, torch.from_numpy(pixels))


def test_val_beside_test_is_for_validation_and_alone_is_the_test_set(tmp_path: Path, tree) -> None:
    both = load("imagefolder", root=tree(tmp_path / "a", COUNTS))
    assert both.val is not None
    assert (len(both.train), len(both.val), len(both.test)) == (12, 3, 6)
    with pytest.raises(ValueError, match="validation split of its own"):
        load("imagefolder", root=tmp_path / "a", val_per_class=1)
    alone = load("imagefolder", root=tree(tmp_path / "b", {k: COUNTS[k] for k in ("train", "val")}))
    assert alone.val is None
    assert len(alone.test) == 3


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_validation_split_has_several_names(tmp_path: Path, tree, name: str) -> None:
    root = tree(tmp_path, {name if split == "val" else split: counts for split, counts in COUNTS.items()})
    data = load("imagefolder", root=root)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (12, 3, 6)
    (root / ("val" if name != "val" else "valid")).mkdir()
    with pytest.raises(ValueError, match=r"both there: which is the validation split\? Remove the other"):
        load("imagefolder", root=root)


def test_folders_of_classes_without_a_train_folder_are_told_where_to_go(tmp_path: Path, tree) -> None:
    root = (tree(tmp_path / "split", COUNTS) / "train").rename(tmp_path / "flat")
    with pytest.raises(FileNotFoundError, match=r"holds no train folder: if its folders are classes, put them into"):
        load("imagefolder", root=root)
    with pytest.raises(FileNotFoundError, match=r"train does not exist: expected"):
        load("imagefolder", root=tree(tmp_path / "no-train", {"test": COUNTS["test"]}))


def test_what_may_be_meant_by_a_folder_without_training_images(tmp_path: Path, tree) -> None:
    root = tree(tmp_path / "data" / "images", COUNTS)
    for given, message in (
        (root.parent, rf"data holds no train folder: did you mean {root}\?$"),
        (root / "val", rf"val holds no train folder: did you mean {root}\?$"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load("imagefolder", root=given)
    (root / "train").rename(root / "Training")
    (root / "test").rename(root / "Test")
    with pytest.raises(FileNotFoundError, match=r"rename Test to test and Training to train$"):
        load("imagefolder", root=root)
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError, match=r"images\.zip is an archive: unpack it, and give the folder"):
        load("imagefolder", root=tmp_path / "images.zip")


@pytest.mark.parametrize(("trained", "held_out"), [("Bird", "bird"), ("caf\u00e9", "cafe\u0301"), ("bird", "bird ")])
def test_a_class_that_is_written_in_another_way_is_told(tmp_path: Path, tree, trained: str, held_out: str) -> None:
    root = tree(tmp_path, {"train": {trained: 2, "cat": 2}, "test": {held_out: 1, "cat": 1}})
    with pytest.raises(
        ValueError, match=r"that the training set lacks: if it is '[^']+', which is written otherwise, rename"
    ):
        load("imagefolder", root=root)


def test_control_characters_in_the_name_of_a_class_are_refused(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {split: {"a\x1b[31m": 2, "b\u00a0c": 2} for split in ("train", "test")})
    with pytest.raises(ValueError, match=r"^the name 'a\\x1b\[31m' in \S+train has control characters"):
        load("imagefolder", root=root)
    assert len(
        load("imagefolder", root=tree(tmp_path / "other", {"train": {"b\u00a0c": 2, "d": 1}, "test": {"d": 1}})).test
    )


def test_a_held_out_split_that_lacks_classes_is_told(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {"train": COUNTS["train"], "test": COUNTS["val"]})
    with pytest.warns(
        UserWarning, match="test holds no images of 'Cat': accuracies are over the other classes"
    ) as told:
        load("imagefolder", root=root)
    assert len(told) == 1


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {split: COUNTS[split] for split in ("train", "test")})
    (root / "train" / "bee" / "0.png").rename(root / "train" / "bee" / "0.jfif")  # read: Pillow looks at the contents
    for k in range(3):
        (root / "train" / "ant" / f"x{k}.HEIC").write_bytes(b"x")
    (root / "train" / "bee" / "raw.Nef").write_bytes(b"x")
    (root / "train" / "bee" / "notes.txt").write_bytes(b"x")
    message = r"^4 pictures in \S+train are left out, since \.heic, \.nef is not read: convert .*ant/x0\.HEIC\)$"
    with pytest.warns(UserWarning, match=message) as told:
        data = load("imagefolder", root=root)
    assert len(told) == 1
    assert len(data.train) == 12


@pytest.mark.parametrize("place", [".ipynb_checkpoints", "@eaDir/0.png", ".thumbnails", "__MACOSX"])
@pytest.mark.parametrize("where", ["in a class", "beside the classes", "beside the splits"])
def test_what_a_system_puts_among_the_images_is_left_out(tmp_path: Path, tree, place: str, where: str) -> None:
    root = tree(tmp_path, COUNTS)
    above = {"in a class": root / "train" / "bee", "beside the classes": root / "train", "beside the splits": root}
    folder = above[where] / place
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "thumbnail.png")
    data = load("imagefolder", root=root)
    assert (len(data.train), len(data.class_names)) == (12, 3)


def test_a_hidden_root_is_one(tmp_path: Path, tree) -> None:
    assert len(load("imagefolder", root=tree(tmp_path / ".hidden", COUNTS)).train) == 12


def test_pictures_outside_of_classes_are_counted(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {split: COUNTS[split] for split in ("train", "test")})
    for name in ("b.png", "a.jpg", ".DS_Store", "._a.jpg", "notes.txt"):
        (root / "train" / name).write_bytes(b"x")
    message = r"^2 pictures lie in \S+train itself and are left out.*a\.jpg\)$"
    with pytest.warns(UserWarning, match=message) as told:
        load("imagefolder", root=root)
    assert len(told) == 1


def test_remarks_of_the_decoder_are_not_passed_on(tmp_path: Path, tree, recwarn: pytest.WarningsRecorder) -> None:
    root = tree(tmp_path, {split: COUNTS[split] for split in ("train", "test")})
    picture = Image.new("P", (8, 8))
    picture.save(root / "train" / "bee" / "0.png", transparency=bytes(range(256)))
    assert len(load("imagefolder", root=root).train) == 12
    assert [str(warning) for warning in recwarn] == []


def test_images_in_folders_of_long_names_are_cached(tmp_path: Path, tree, recwarn: pytest.WarningsRecorder) -> None:
    root = tree(tmp_path / ("猫" * 80), {split: COUNTS[split] for split in ("train", "test")})
    assert len(load("imagefolder", root=root).train) == 12
    assert [str(warning) for warning in recwarn] == []


def photograph(path: Path, orientation: int) -> None:
    """40 x 24 pixels as they are stored, the left half of them white, the top quarter of the others grey."""
    stored = np.zeros((24, 40, 3), np.uint8)
    stored[:, :20], stored[:6, 20:] = 255, 128
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright_as_viewers_show_them(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"photo{suffix}"
    photograph(path, orientation)
    with Image.open(path) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    found = pictures.read(path)
    assert found.size == expected.size == pictures.side(path) == ((24, 40) if orientation >= 5 else (40, 24))
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_a_photograph_is_left_as_it_is_stored_where_positions_are_annotated(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    photograph(path, 6)
    stored = np.asarray(pictures.read(path, upright=False))
    assert stored.shape[:2] == (24, 40)
    assert pictures.side(path, upright=False) == (40, 24)
    assert (stored[:, :20] == 255).all()


def test_damaged_tags_cost_nothing_but_the_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(tmp_path / "photo.jpg", 6)

    def damaged(_: object) -> None:
        raise ValueError("not a TIFF header")

    monkeypatch.setattr(Image.Image, "getexif", damaged)
    assert pictures.read(tmp_path / "photo.jpg").size == pictures.side(tmp_path / "photo.jpg") == (40, 24)


@pytest.mark.parametrize("upright", [False, True])
def test_of_very_thin_pictures_the_middle_is_used_at_no_great_cost(upright: bool) -> None:
    thin = Image.fromarray(np.arange(100_000, dtype=np.uint32).astype(np.uint8)[None, :, None].repeat(3, 2))
    fitted = pictures.fit(thin.transpose(Image.Transpose.TRANSPOSE) if upright else thin, 224)  # else 20 GB
    assert fitted.size == (224, 224)
    assert np.unique(np.asarray(fitted)).tolist() == [49_999 % 256, 50_000 % 256]
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 120, 3), dtype=np.uint8))
    expected = np.asarray(tv.center_crop(tv.resize(wide, [64], antialias=True), [64, 64]))
    assert np.array_equal(np.asarray(pictures.fit(wide, 64)), expected)  # 15 times as wide as high: as torchvision
    longer = Image.fromarray(np.pad(np.asarray(wide), ((0, 0), (60, 60), (0, 0))))
    assert np.abs(np.asarray(pictures.fit(longer, 64)).astype(int) - expected).max() <= 1


def test_training_images_alone_need_a_held_out_test_set(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {"train": COUNTS["train"]})
    with pytest.raises(ValueError, match="neither val nor test"):
        load("imagefolder", root=root)
    data = load("imagefolder", root=root, val_per_class=1)
    assert data.val is None
    assert (len(data.train), len(data.test)) == (9, 3)


def test_validation_and_subset_are_disjoint_parts_of_the_training_images(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {k: COUNTS[k] for k in ("train", "test")})
    everything = load("imagefolder", root=root).train
    data = load("imagefolder", root=root, per_class=2, val_per_class=1, subset_seed=4)
    assert data.val is not None
    rows = {tuple(image.flatten().tolist()) for image in everything.images}
    train, val = ([tuple(image.flatten().tolist()) for image in part.images] for part in (data.train, data.val))
    assert not set(train) & set(val)
    assert set(train) | set(val) <= rows
    assert len(set(train)) == 6
    assert data.val.labels.tolist() == [0, 1, 2]
    other = load("imagefolder", root=root, per_class=2, val_per_class=1, subset_seed=5)
    assert not torch.equal(other.train.images, data.train.images)


def test_large_images_stay_in_their_files_and_small_sizes_are_decoded(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {"train": {"a": 2, "b": 2}, "test": {"a": 1}}, width=120, height=100)
    large = load("imagefolder", root=root, image_size=224, per_class=1)
    assert isinstance(large.train, FileDataset)
    assert isinstance(large.test, FileDataset)
    assert (len(large.train), large.image_size) == (2, 224)
    small = load("imagefolder", root=root, image_size=16)
    assert isinstance(small.train, ArrayDataset)
    assert small.train.images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize(("width", "height"), [(40, 24), (24, 40)])
def test_images_that_are_not_square_are_cut_in_the_middle(tmp_path: Path, tree, width, height) -> None:
    root = tree(tmp_path, COUNTS, width=width, height=height)
    found = load("imagefolder", root=root, image_size=16).train
    assert isinstance(found, ArrayDataset)
    for ours, (picture, _) in zip(found.images, ImageFolder(root / "train"), strict=True):
        assert torch.equal(ours, tv.pil_to_tensor(tv.center_crop(tv.resize(picture, [16]), [16, 16])))


def test_more_than_the_memory_limit_stays_in_the_files(tmp_path: Path, tree, monkeypatch) -> None:
    root = tree(tmp_path, COUNTS)
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 21 * 3 * 8 * 8)
    assert isinstance(load("imagefolder", root=root).train, ArrayDataset)
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 21 * 3 * 8 * 8 - 1)
    assert isinstance(load("imagefolder", root=root).train, FileDataset)


def test_images_of_several_sizes_need_an_image_size(tmp_path: Path, tree) -> None:
    root = tree(tmp_path / "a", COUNTS)
    Image.new("RGB", (9, 9)).save(root / "train" / "bee" / "2.png")
    with pytest.raises(ValueError, match=r"bee/2\.png is 9x9 pixels and the others 8x8: give image_size"):
        load("imagefolder", root=root)
    assert load("imagefolder", root=root, image_size=8).image_size == 8
    wide = tree(tmp_path / "b", COUNTS, width=9, height=8)
    with pytest.raises(ValueError, match=r"0\.png is 9x8 pixels: give image_size"):
        load("imagefolder", root=wide)
    Image.new("RGB", (9, 9)).save(root / "train" / "bee" / "0.png")
    with pytest.raises(ValueError, match=r"bee/0\.png is 9x9 pixels and Cat/0\.png 8x8"):
        load("imagefolder", root=root)


def test_missing_and_empty_folders_are_named(tmp_path: Path, tree) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: expected .*train/CLASS/IMAGE"):
        load("imagefolder", root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"/train does not exist"):
        load("imagefolder", root=tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"/train holds no class folders"):
        load("imagefolder", root=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"file is not a folder"):
        load("imagefolder", root=tmp_path / "file")
    root = tree(tmp_path / "empty", {**COUNTS, "train": {"ant": 2, "bee": 0, "Cat": 1}})
    with pytest.raises(ValueError, match=r"class 'bee' is empty: .*train/bee holds no images"):
        load("imagefolder", root=root)
    root = tree(tmp_path / "one", {"train": {"images": 3}, "test": {"images": 1}})
    with pytest.raises(ValueError, match=r"holds one class, 'images': a classifier needs at least two"):
        load("imagefolder", root=root)


def test_a_test_class_that_is_not_trained_is_refused(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, {**COUNTS, "test": {"ant": 1, "dog": 1}})
    with pytest.raises(ValueError, match=r"/test has a class folder 'dog' that the training set lacks"):
        load("imagefolder", root=root)


def test_hidden_files_and_folders_are_left_out(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, COUNTS)
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "ant" / "._0.png").write_bytes(b"resource fork")
    data = load("imagefolder", root=root)
    assert (data.num_classes, len(data.train)) == (3, 12)


@pytest.mark.parametrize(("image_size", "suffix"), [(None, ".png"), (224, ".png"), (16, ".jpg"), (224, ".jpg")])
def test_unreadable_images_are_skipped_and_counted_when_told_so(tmp_path: Path, tree, image_size, suffix) -> None:
    root = tree(tmp_path, COUNTS, suffix=suffix)
    whole = load("imagefolder", root=root, image_size=image_size)
    bad = [
        root / split / f"{name}{suffix}" for split, name in (("train", "bee/0"), ("train", "ant/2"), ("test", "Cat/1"))
    ]
    for path in bad:
        damage(path)
    for _ in range(2):  # decoded, then from the cache
        with pytest.warns(UserWarning, match="left out 3 of 21 images that are unreadable"):
            data = load("imagefolder", root=root, image_size=image_size, bad_images="skip")
        assert sorted(data.skipped) == sorted(map(str, bad))
        assert data.train.labels.bincount().tolist() == [5, 2, 3]
        assert len(data.test) == 5
        if isinstance(data.train, ArrayDataset):
            assert isinstance(whole.train, ArrayDataset)
            kept = [i for i in range(12) if i not in (7, 8)]
            assert torch.equal(data.train.images, whole.train.images[kept])
        else:
            names = [data.train.path(i) for i in range(len(data.train))]
            assert not set(names) & set(bad)


def test_unreadable_images_are_errors_otherwise_and_repairing_them_is_enough(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, COUNTS)
    path = root / "train" / "bee" / "3.png"
    content = path.read_bytes()
    damage(path)
    for _ in range(2):
        with pytest.raises(UnreadableImageError, match=r"cannot read the image .*train/bee/3\.png: .*truncated"):
            load("imagefolder", root=root)
    damage(root / "train" / "bee" / "1.png")
    with pytest.raises(UnreadableImageError, match=r"bee/1\.png: .* \(1 more of .*train are unreadable too\)"):
        load("imagefolder", root=root)
    (root / "train" / "bee" / "1.png").unlink()
    path.write_bytes(content)
    assert len(load("imagefolder", root=root).train) == 11


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_the_quick_check_finds_just_what_decoding_finds(tmp_path: Path, write_image, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, 100, 90, 0)
    content = path.read_bytes()
    verdicts = set()
    for kept in (1.0, 0.999, 0.99, 0.9, 0.5, 0.1, 0.01, 0.0):
        path.write_bytes(content[: round(kept * len(content))])
        try:
            pictures.read(path)
            readable = True
        except UnreadableImageError:
            readable = False
        assert pictures.is_readable(path) == readable
        verdicts.add(readable)
    assert verdicts == {True, False}


def test_a_class_that_is_unreadable_altogether_is_named(tmp_path: Path, tree) -> None:
    root = tree(tmp_path, COUNTS)
    for path in (root / "train" / "ant").iterdir():
        damage(path)
    with pytest.raises(ValueError, match=r"class 'ant' has no readable images in .*train"):
        load("imagefolder", root=root, bad_images="skip")


def test_a_file_the_machine_refuses_to_read_is_never_skipped(tmp_path: Path, tree, monkeypatch) -> None:
    root = tree(tmp_path, COUNTS)

    def refuse(path: Path, mode: str = "r") -> object:
        if str(path).endswith("bee/3.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode)

    monkeypatch.setattr("multimix.data.pictures.open", refuse, raising=False)
    for image_size in (None, 224):
        with pytest.raises(PermissionError, match=r"bee/3\.png"):
            load("imagefolder", root=root, image_size=image_size, bad_images="skip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar-10"}, "unknown data set 'cifar-10': did you mean cifar10"),
        ({"name": "xyz"}, "expected one of digits, cifar10"),
        ({"name": "digits"}, "digits come with scikit-learn and are read from nowhere else: leave out root, got"),
        ({"root": None}, "imagefolder has no default folder"),
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"val_per_class": -1}, "val_per_class must be at least 0, got -1"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"bad_images": "ignore"}, "bad_images must be 'error' or 'skip', got 'ignore'"),
        ({"per_class": 4}, "class 'ant' has 3 training images, fewer than per_class=4"),
    ],
)
def test_bad_arguments_are_one_clear_error(tmp_path: Path, tree, options, message) -> None:
    root = tree(tmp_path, {k: COUNTS[k] for k in ("train", "test")})
    with pytest.raises(ValueError, match=message):
        load(**{"name": "imagefolder", "root": root, **options})


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path, tree, global_state) -> None:
    root = tree(tmp_path, COUNTS)
    with global_state():
        load("imagefolder", root=root, per_class=2)
        load("digits", per_class=5, val_per_class=2)


def test_a_relative_root_is_understood(tmp_path: Path, tree, monkeypatch) -> None:
    tree(tmp_path / "here", COUNTS)
    monkeypatch.chdir(tmp_path)
    assert len(load("imagefolder", root="here").train) == 12
    assert os.listdir(tmp_path) == ["here"]
