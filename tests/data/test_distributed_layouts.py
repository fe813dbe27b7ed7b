"""Digits, CIFAR, TinyImageNet, ImageNet and arrays, each in the form in which it is distributed, in miniature."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits

from multimix.data import ArrayDataset, FileDataset, load
from multimix.data import digits as digits_module


def test_digits_are_scikit_learns_in_256_levels() -> None:
    data = load("digits")
    assert isinstance(data.train, ArrayDataset)
    assert isinstance(data.test, ArrayDataset)
    raw = load_digits()
    expected = {
        (tuple(np.rint(i.ravel() * 15.9375).astype(int)), y) for i, y in zip(raw.images, raw.target, strict=True)
    }
    found = [
        (tuple(image.flatten().tolist()), int(label))
        for part in (data.train, data.test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert len(found) == 1797
    assert set(found) == expected
    assert data.test.labels.bincount().tolist() == [87] * 10
    assert data.class_names == tuple("0123456789")
    assert data.train.images.shape == (927, 1, 8, 8)


def test_the_digits_of_the_test_set_never_change() -> None:
    data, other = load("digits"), load("digits", per_class=10, val_per_class=3, subset_seed=7)
    assert isinstance(data.test, ArrayDataset)
    assert isinstance(other.test, ArrayDataset)
    assert torch.equal(data.test.images, other.test.images)
    # A fixed split is part of every published number on it.
    digest = hashlib.sha256(data.test.images.numpy().tobytes() + data.test.labels.numpy().tobytes())
    assert digest.hexdigest()[:16] == "21573191f43a06fc"


def test_the_constants_of_digits_are_those_of_its_training_images() -> None:
    train = load("digits").train
    assert isinstance(train, ArrayDataset)
    pixels = train.images.double() / 255
    assert round(float(pixels.mean()), 4) == digits_module.MEAN[0]
    assert round(float(pixels.std()), 4) == digits_module.STD[0]


# arrays


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    made = {
        "train_images": generator.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8),
        "train_labels": np.arange(12) % 3,
        "test_images": generator.integers(0, 256, (6, 6, 6, 3), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
    }
    return {**made, **changes}


def write(path: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez(path, **content)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("spelling", ["{}_{}", "{}_x", "x_{}"])
@pytest.mark.parametrize("form", ["NHWC", "NCHW", "NHW", "NHW1"])
def test_arrays_in_the_usual_spellings_and_axes(tmp_path: Path, spelling, form) -> None:
    content = {}
    for key, value in arrays().items():
        split, what = key.split("_")
        if spelling != "{}_{}":
            key = spelling.replace("x", "x" if what == "images" else "y").format(split)
        if what == "images":
            value = {
                "NHWC": value,
                "NCHW": value.transpose(0, 3, 1, 2),
                "NHW": value[..., 0],
                "NHW1": value[..., :1],
            }[form]
        else:
            value = value[:, None].astype(np.uint8)
        content[key] = value
    data = load("imagefolder", root=write(tmp_path / "set.npz", content))
    assert isinstance(data.train, ArrayDataset)
    expected = arrays()["train_images"].transpose(0, 3, 1, 2)
    expected = expected if form in ("NHWC", "NCHW") else expected[:, :1].repeat(3, axis=1)
    assert torch.equal(data.train.images, torch.from_numpy(expected))
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.class_names == ("0", "1", "2")


def test_arrays_with_names_validation_and_an_image_size(tmp_path: Path) -> None:
    content = arrays(
        val_images=arrays()["test_images"][:3], val_labels=np.arange(3), class_names=np.array(["a", "b", "c"])
    )
    data = load("imagefolder", root=write(tmp_path / "set.npz", content), image_size=12)
    assert data.class_names == ("a", "b", "c")
    assert data.val is not None
    assert (len(data.val), data.image_size, data.test.image_size) == (3, 12, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_labels": np.array([0, 1, 2, 9] * 3), "class_names": np.array(["a", "b", "c"])},
            "label 9 of set.npz train example 3 is out of range: there are 3 classes",
        ),
        ({"test_labels": np.array([0, 1, 2, 3, 0, 1])}, "label 3 of set.npz test example 3 is out of range"),
        ({"train_labels": np.arange(12) - 1}, "got -1 for example 0"),
        (
            {"train_labels": np.arange(12) * 10**8},
            "has the label 1100000000 and only 12 training images",
        ),
        ({"class_names": np.array("abc")}, r"class_names of .*set.npz must be one name for every class, got an array"),
        ({"train_images": np.zeros((12, 0, 0, 3), np.uint8)}, "must be square"),
        ({"train_labels": np.arange(11)}, r"train_images and train_labels of .*need labels of shape \(12,\)"),
        ({"train_images": np.zeros((12, 6, 6, 3))}, "must be uint8"),
        (
            {"train_labels": np.array(["cat", "dog", "cow"] * 4)},
            r"^train_images and train_labels of .*: labels must be integer class indices, got text, "
            r"\['cat', 'dog', 'cow'\]: number the classes, [^\n]*$",
        ),
        ({"test_labels": np.array([b"cat"] * 6)[:, None]}, "test_labels of .* got text, .*: number the classes"),
        ({"train_images": np.zeros((12, 6, 5, 3), np.uint8)}, "must be square"),
        ({"test_images": np.zeros((6, 5, 5, 3), np.uint8)}, "5 pixels in test and image_size=6"),
    ],
)
def test_arrays_that_do_not_fit_are_one_clear_error(tmp_path: Path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        load("imagefolder", root=write(tmp_path / "set.npz", arrays(**changes)))


def test_arrays_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npz does not exist"):
        load("imagefolder", root=tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"must hold train_images and train_labels.*; it holds images"):
        load("imagefolder", root=write(tmp_path / "other.npz", {"images": np.zeros(3)}))
    path = write(tmp_path / "set.npz", arrays())
    content = path.read_bytes()
    for broken in (content[:-100], b"", b"text", pickle.dumps([1, 2])):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"set\.npz is not a whole \.npz file"):
            load("imagefolder", root=path)
    np.save(tmp_path / "one.npy", np.zeros((3, 4)))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"^[^\n]*one\.npz is not [^\n]*\(it is one array, float64 \(3, 4\), of an"):
        load("imagefolder", root=tmp_path / "one.npz")
    (tmp_path / "objects.npz").write_bytes(b"")
    np.savez(tmp_path / "objects.npz", train_images=np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match=r"not a whole \.npz file of plain arrays .*: \.astype\(str\)$"):
        load("imagefolder", root=tmp_path / "objects.npz")
    np.save(tmp_path / "two.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"it is one array, float64 \(3, 4\), of an \.npy file; numpy\.savez writes"):
        load("imagefolder", root=tmp_path / "two.npy")


def test_labels_that_are_not_what_they_seem(tmp_path: Path) -> None:
    whole = arrays()
    one_hot = np.eye(3, dtype=np.int64)[np.asarray(whole["train_labels"]).ravel() % 3]
    with pytest.raises(ValueError, match=r"got an array \(\d+, 3\): of rows with one 1 each, save labels\.argmax\(1\)"):
        load("imagefolder", root=write(tmp_path / "one-hot.npz", whole | {"train_labels": one_hot}))
    misspelt = {key.replace("test_labels", "test_label"): value for key, value in whole.items()}
    with pytest.raises(ValueError, match="has test_images without test_labels; it holds"):
        load("imagefolder", root=write(tmp_path / "misspelt.npz", misspelt))
    from_one = whole | {key: np.asarray(whole[key]) + 1 for key in ("train_labels", "test_labels")}
    from_one.pop("class_names", None)
    with pytest.warns(UserWarning, match=r"has no train images of '0', of \d+ classes \(labels count from 0\)"):
        load("imagefolder", root=write(tmp_path / "from-one.npz", from_one).rename(tmp_path / "FROM-ONE.NPZ"))
    names = np.array([f"c{k}" for k in range(int(np.asarray(whole["train_labels"]).max()) + 1)], dtype="S")
    found = load("imagefolder", root=write(tmp_path / "bytes.npz", whole | {"class_names": names}))
    assert found.class_names[0] == "c0"


# CIFAR


@pytest.fixture
def cifar_batches(monkeypatch: pytest.MonkeyPatch):
    """Writes a tiny CIFAR in the authors' form; torchvision then accepts its checksums."""

    def make(root: Path, name: str) -> dict[str, np.ndarray]:
        kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
        classes = int(name[5:])
        folder = root / kind.base_folder
        folder.mkdir(parents=True)
        generator = np.random.default_rng(classes)
        pixels = {}
        checksums: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
        for split in checksums:
            blocks = []
            for file, _ in getattr(kind, split):
                data = generator.integers(0, 256, (classes, 3072), dtype=np.uint8)
                labels = list(range(classes))
                content = pickle.dumps({"data": data, ("labels" if classes == 10 else "fine_labels"): labels})
                (folder / file).write_bytes(content)
                checksums[split].append([file, hashlib.md5(content).hexdigest()])
                blocks.append(data)
            pixels[split.removesuffix("_list")] = np.concatenate(blocks).reshape(-1, 3, 32, 32)
            monkeypatch.setattr(kind, split, checksums[split])
        content = pickle.dumps({kind.meta["key"]: [f"class {i}" for i in range(classes)]})
        (folder / kind.meta["filename"]).write_bytes(content)
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": hashlib.md5(content).hexdigest()})
        return pixels

    return make


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_in_the_authors_form(tmp_path: Path, cifar_batches, name) -> None:
    pixels = cifar_batches(tmp_path, name)
    data = load(name, root=tmp_path, download=False)
    assert isinstance(data.train, ArrayDataset)
    assert isinstance(data.test, ArrayDataset)
    assert torch.equal(data.train.images, torch.from_numpy(pixels["train"]))
    assert torch.equal(data.test.images, torch.from_numpy(pixels["test"]))
    classes = int(name[5:])
    assert data.train.labels.tolist() == list(range(classes)) * (len(data.train) // classes)
    assert data.class_names[3] == "class 3"
    assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_cifar_lies_in_the_cache_folder_by_default(own_cache: Path, cifar_batches) -> None:
    cifar_batches(own_cache / "datasets", "cifar10")
    assert len(load("cifar10", download=False).train) == 50


def test_cifar_as_folders_and_as_arrays(tmp_path: Path, tree) -> None:
    classes = {f"c{i}": 2 for i in range(10)}
    root = tree(tmp_path / "folders", {"train": classes, "test": classes})
    folders = load("cifar10", root=root)
    assert isinstance(folders.train, ArrayDataset)
    images, labels = folders.train.images.numpy(), folders.train.labels.numpy()
    content = {"train_x": images, "train_y": labels, "test_x": images[:10], "test_y": labels[:10]}
    (tmp_path / "arrays").mkdir()
    path = write(tmp_path / "arrays" / "cifar10.npz", content)
    for where in (path, path.parent):
        read = load("cifar10", root=where)
        assert isinstance(read.train, ArrayDataset)
        assert torch.equal(read.train.images, folders.train.images)
        assert read.mean == folders.mean == (0.4914, 0.4822, 0.4465)
    with pytest.raises(ValueError, match=r"cifar100 has 100 classes, but .* holds 10: .* imagefolder"):
        load("cifar100", root=root)


def test_cifar_that_is_not_there_and_cannot_be_downloaded(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not in .*, and download is off. Put cifar-10-batches-py/"):
        load("cifar10", root=tmp_path / "a", download=False)
    assert not (tmp_path / "a").exists()

    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(FileNotFoundError, match=r"cifar100 is not in .*b, and the download failed: .*not known"):
        load("cifar100", root=tmp_path / "b")


def test_cifar_is_downloaded_where_it_can_be(tmp_path: Path, monkeypatch, cifar_batches) -> None:
    asked = []

    def network(url: str, root: Path, **kwargs: object) -> None:
        asked.append(url)
        cifar_batches(Path(root), "cifar10")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", network)
    assert len(load("cifar10", root=tmp_path / "new").train) == 50
    assert len(load("cifar10", root=tmp_path / "new").train) == 50
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]


# TinyImageNet

WNIDS = ("n01443537", "n01629819", "n02012849", "n03126707")
WORDS = "n01443537\tgoldfish, Carassius auratus\nn02012849\tcrane\nn03126707\tcrane\nn09999999\tother\n"


@pytest.fixture
def tiny(tmp_path: Path, write_image) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    seed = 0
    for wnid in WNIDS:
        (root / "train" / wnid).mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
        for i in range(3):
            seed += 1
            write_image(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 64, 64, seed)
    lines = []
    for i, wnid in enumerate([WNIDS[2], WNIDS[0], WNIDS[3], WNIDS[2], WNIDS[1]]):
        write_image(root / "val" / "images" / f"val_{i}.JPEG", 64, 64, 100 + i)
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (root / "words.txt").write_text(WORDS)
    (root / "test" / "images").mkdir(parents=True)
    write_image(root / "test" / "images" / "test_0.JPEG", 64, 64, 999)
    return root


def test_tiny_imagenet_as_distributed(tiny: Path) -> None:
    for root in (tiny, tiny.parent):
        data = load("tinyimagenet", root=root)
        assert isinstance(data.test, ArrayDataset)
        assert data.test.labels.tolist() == [2, 0, 3, 2, 1]
        for i in range(5):
            path = tiny / "val" / "images" / f"val_{i}.JPEG"
            expected = torchvision.datasets.folder.default_loader(path)
            assert torch.equal(data.test.images[i].permute(1, 2, 0), torch.from_numpy(np.array(expected)))
        assert data.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
        assert data.class_names == ("goldfish", "n01629819", "crane (n02012849)", "crane (n03126707)")
        assert data.image_size == 64
        assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # as AlignMixup's code


def test_tiny_imagenet_with_validation_images_in_class_folders(tiny: Path, tree) -> None:
    for path in sorted((tiny / "val").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    tree(tiny, {"val": {WNIDS[1]: 2}}, width=64, suffix=".JPEG")
    assert load("tinyimagenet", root=tiny).test.labels.tolist() == [1, 1]


def test_tiny_imagenet_that_is_incomplete(tiny: Path) -> None:
    annotations = tiny / "val" / "val_annotations.txt"
    content = annotations.read_text()
    annotations.write_text(content.replace(WNIDS[3], "n00000000"))
    with pytest.raises(ValueError, match=r"line 3 of .*val_annotations\.txt gives 'val_2.JPEG' the class 'n00000000'"):
        load("tinyimagenet", root=tiny)
    annotations.write_text(content + "val_77.JPEG\tn01443537\t0\t0\t0\t0\n")
    with pytest.raises(ValueError, match=r"val_77\.JPEG: the file is missing"):
        load("tinyimagenet", root=tiny)
    with pytest.warns(UserWarning, match="left out 1 of 18"):
        assert len(load("tinyimagenet", root=tiny, bad_images="skip").test) == 5
    annotations.unlink()
    with pytest.raises(FileNotFoundError, match=r"val_annotations\.txt does not exist"):
        load("tinyimagenet", root=tiny)
    with pytest.raises(FileNotFoundError, match=r"tiny-imagenet-200\.zip"):
        load("tinyimagenet", root=tiny / "val")


# ImageNet


def imagenet_meta(root: Path, val_wnids: list[str]) -> None:
    words = {"n01443537": ("goldfish", "Carassius auratus"), "n02012849": ("crane",), "n03126707": ("crane",)}
    torch.save((words, val_wnids), root / "meta.bin")


def test_imagenet_in_class_folders(tmp_path: Path, tree) -> None:
    tree(tmp_path, {"train": {w: 2 for w in WNIDS[:2]}, "val": {w: 1 for w in WNIDS[:2]}}, width=30, suffix=".JPEG")
    data = load("imagenet", root=tmp_path)
    assert isinstance(data.train, FileDataset)
    assert (data.image_size, data.class_names) == (224, WNIDS[:2])
    theirs = torchvision.transforms._presets.ImageClassification(crop_size=224)
    assert (data.mean, data.std) == (tuple(theirs.mean), tuple(theirs.std))
    assert data.test.labels.tolist() == [0, 1]
    imagenet_meta(tmp_path, [])
    assert load("imagenet", root=tmp_path).class_names == ("goldfish", WNIDS[1])
    small = load("imagenet", root=tmp_path, image_size=32)
    assert isinstance(small.train, ArrayDataset)


def test_imagenet_with_flat_validation_images(tmp_path: Path, tree, write_image) -> None:
    tree(tmp_path, {"train": {w: 2 for w in WNIDS}}, width=30, suffix=".JPEG")
    for i in range(3):
        write_image(tmp_path / "val" / f"ILSVRC2012_val_{i:08}.JPEG", 30, 30, i)
    with pytest.raises(ValueError, match=r"3 images outside class folders, .* of 0: put ILSVRC2012_devkit"):
        load("imagenet", root=tmp_path)
    imagenet_meta(tmp_path, [WNIDS[3], "n00000000", WNIDS[2]])
    with pytest.raises(ValueError, match=r"images of 1 classes that .*train lacks \(n00000000"):
        load("imagenet", root=tmp_path)
    imagenet_meta(tmp_path, [WNIDS[3], WNIDS[0], WNIDS[2]])
    test = load("imagenet", root=tmp_path).test
    assert isinstance(test, FileDataset)
    assert test.labels.tolist() == [3, 0, 2]
    assert [test.name(i)[-6:] for i in range(3)] == ["0.JPEG", "1.JPEG", "2.JPEG"]


def test_imagenet_as_distributed_is_unpacked(tmp_path: Path, tree, write_image, monkeypatch) -> None:
    tree(tmp_path / "made", {"train": {w: 2 for w in WNIDS}}, width=30, suffix=".JPEG")
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in WNIDS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for path in sorted((tmp_path / "made" / "train" / wnid).iterdir()):
                    archive.add(path, f"{wnid}_{path.name}")
            entry = tarfile.TarInfo(f"{wnid}.tar")
            entry.size = inner.tell()
            inner.seek(0)
            outer.addfile(entry, inner)
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for i in range(4):
            write_image(tmp_path / "val.JPEG", 30, 30, i)
            archive.add(tmp_path / "val.JPEG", f"ILSVRC2012_val_{i:08}.JPEG")
    imagenet_meta(root, list(reversed(WNIDS)))
    with pytest.raises(FileNotFoundError, match=r"cannot unpack .*train\.tar: .*corrupted"):
        load("imagenet", root=root)
    meta = torchvision.datasets.imagenet.ARCHIVE_META
    for split in ("train", "val"):
        file = meta[split][0]
        checksum = hashlib.md5((root / file).read_bytes()).hexdigest()
        monkeypatch.setitem(meta, split, (file, checksum))
    (root / "train.partial" / "left over").mkdir(parents=True)
    data = load("imagenet", root=root)
    assert data.class_names == ("goldfish", WNIDS[1], "crane (n02012849)", "crane (n03126707)")
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert isinstance(data.test, FileDataset)
    assert data.test.labels.tolist() == [0, 1, 2, 3]
    assert [data.test.name(i)[-6:] for i in range(4)] == ["3.JPEG", "2.JPEG", "1.JPEG", "0.JPEG"]


def test_imagenet_that_is_incomplete(tmp_path: Path, tree) -> None:
    tree(tmp_path, {"train": {w: 2 for w in WNIDS}}, width=30)
    with pytest.raises(FileNotFoundError, match=r"val does not exist: expected .*ILSVRC2012_img_val\.tar"):
        load("imagenet", root=tmp_path)
    tree(tmp_path, {"val": {w: 1 for w in WNIDS}}, width=30)
    (tmp_path / "train" / "n04000000.tar").touch()
    with pytest.raises(ValueError, match=r"n04000000\.tar is not unpacked: unpack every class"):
        load("imagenet", root=tmp_path)


def test_damaged_arrays_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **arrays())  # type: ignore[arg-type]
    whole, undamaged, refused = path.read_bytes(), load("imagefolder", root=path), 0
    for place in range(40, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            found = load("imagefolder", root=path)
        except ValueError:
            refused += 1
        else:  # damage where nothing is read, such as a time
            for split, before in ((found.train, undamaged.train), (found.test, undamaged.test)):
                assert torch.equal(split.images, before.images)
                assert torch.equal(split.labels, before.labels)
    assert refused > 40
