"""Out-of-distribution sets in the layouts in which they are distributed, from small files."""

from __future__ import annotations

import functools
import hashlib
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from multimix.data import ArrayDataset, FileDataset
from multimix.data.ood_sets import ood_set


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address at which the files of `tmp_path` can be downloaded."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def write(path: Path, side: int, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), value, np.uint8)
    pixels[0, 0] = 255
    Image.fromarray(pixels).save(path)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_has_the_distribution_it_names() -> None:
    uniform = ood_set("uniform-noise", image_size=32, limit=200, generator=generator())
    assert isinstance(uniform, ArrayDataset)
    x = uniform.images.double() / 255
    assert x.mean().item() == pytest.approx(0.5, abs=0.005)
    assert x.var().item() == pytest.approx(1 / 12, abs=0.002)
    gaussian = ood_set("gaussian-noise", image_size=32, limit=200, generator=generator())
    assert isinstance(gaussian, ArrayDataset)
    x = gaussian.images.double() / 255
    # P(N(0.5, 1) < 0.5 / 255), since values are rounded, and the same at the other end
    at_ends = 1 - torch.distributions.Normal(0.5, 1).cdf(torch.tensor([0.5 / 255, 254.5 / 255])).diff().item()
    assert ((x == 0) | (x == 1)).double().mean().item() == pytest.approx(at_ends, abs=0.003)


def test_noise_follows_its_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (ood_set("gaussian-noise", image_size=4, limit=5, generator=generator(k)) for k in (1, 1, 2))
    assert torch.equal(first.images, again.images)  # type: ignore[union-attr]
    assert not torch.equal(first.images, other.images)  # type: ignore[union-attr]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("inner", ["", "LSUN_resize", "a/b"])
def test_any_folder_of_images_at_any_depth(tmp_path: Path, inner: str) -> None:
    for k in range(5):
        write(tmp_path / inner / f"{k}.png", 36, value=10 * k)
    (tmp_path / "readme.txt").write_text("not an image")
    found = ood_set(f"lsun={tmp_path}", image_size=32)
    assert isinstance(found, ArrayDataset)
    assert found.images.shape == (5, 3, 32, 32)
    assert found.images[:, :, 20, 20].tolist() == [[10 * k] * 3 for k in range(5)]


def test_a_choice_of_the_images(tmp_path: Path) -> None:
    for k in range(20):
        write(tmp_path / f"{k:02}.png", 8, value=10 * k)
    first, again, other = (ood_set(f"x={tmp_path}", image_size=8, limit=7, generator=generator(k)) for k in (0, 0, 1))
    assert len(first) == 7
    assert torch.equal(first.images, again.images)  # type: ignore[union-attr]
    assert not torch.equal(first.images, other.images)  # type: ignore[union-attr]


def test_large_images_stay_in_their_files_and_grey_ones_have_one_channel(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 300)
    assert isinstance(ood_set(f"x={tmp_path}", image_size=224), FileDataset)
    grey = ood_set(f"x={tmp_path}", image_size=8, channels=1)
    assert isinstance(grey, ArrayDataset)
    assert grey.images.shape == (1, 1, 8, 8)
    with pytest.raises(ValueError, match="grey images are made in memory only"):
        ood_set(f"x={tmp_path}", image_size=224, channels=1)


def test_grey_is_the_luma_of_the_colours(tmp_path: Path) -> None:
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255)), ("d", (200, 200, 200))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    grey = ood_set(f"x={tmp_path}", image_size=8, channels=1)
    # 0.299, 0.587 and 0.114 of white; what was grey stays as it was
    assert grey.images[:, 0, 3, 5].tolist() == [76, 150, 29, 200]  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["", "dtd", "dtd/dtd"])
def test_dtd_wherever_it_is_unpacked(tmp_path: Path, place: str) -> None:
    write(tmp_path / place / "images" / "banded" / "banded_1.jpg", 40)
    write(tmp_path / place / "images" / "dotted" / "dotted_1.jpg", 50)
    write(tmp_path / place / "labels" / "decoy.jpg", 50)
    assert len(ood_set(f"dtd={tmp_path}", image_size=32)) == 2


def test_dtd_is_downloaded_where_it_is_missing(tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    write(source / "dtd" / "images" / "banded" / "banded_1.jpg", 40)
    (source / "dtd" / "labels").mkdir()
    (source / "dtd" / "labels" / "train1.txt").write_text("banded/banded_1.jpg\n")
    with tarfile.open(tmp_path / "dtd.tar.gz", "w:gz") as archive:
        archive.add(source / "dtd", "dtd")
    monkeypatch.setattr(datasets.DTD, "_URL", f"{served}/dtd.tar.gz")
    monkeypatch.setattr(datasets.DTD, "_MD5", hashlib.md5((tmp_path / "dtd.tar.gz").read_bytes()).hexdigest())
    with pytest.raises(FileNotFoundError, match=r"dtd is not in .*root, or not whole .* allow the download"):
        ood_set(f"dtd={root}", image_size=32)
    assert len(ood_set(f"dtd={root}", image_size=32, download=True)) == 1


def test_svhn_in_torchvisions_file(tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    pixels = np.zeros((32, 32, 3, 4), np.uint8)
    pixels[5, 7, 1] = [10, 20, 30, 40]
    savemat(tmp_path / "test.mat", {"X": pixels, "y": np.array([[1], [10], [3], [4]], np.uint8)})
    digest = hashlib.md5((tmp_path / "test.mat").read_bytes()).hexdigest()
    entry = [f"{served}/test.mat", "test_32x32.mat", digest]
    monkeypatch.setattr(datasets.SVHN, "split_list", {"test": entry})
    root = tmp_path / "svhn"
    with pytest.raises(FileNotFoundError, match=r"svhn \(test_32x32.mat\) is not in .*svhn, or not whole"):
        ood_set(f"svhn={root}", image_size=32)
    with pytest.raises(FileNotFoundError, match=f"put {served}/test.mat there, or allow the download"):
        ood_set(f"svhn={root}", image_size=32)
    found = ood_set(f"svhn={root}", image_size=32, download=True)
    assert isinstance(found, ArrayDataset)
    assert found.images[:, :, 5, 7].tolist() == [[0, 10, 0], [0, 20, 0], [0, 30, 0], [0, 40, 0]]
    assert found.labels.tolist() == [0, 0, 0, 0]
    resized = ood_set(f"svhn={root}", image_size=64)
    assert resized.image_size == 64


def test_cifar_as_folder_and_as_arrays(tmp_path: Path) -> None:
    write(tmp_path / "images" / "train" / "cat" / "1.png", 32)
    write(tmp_path / "images" / "test" / "cat" / "2.png", 32)
    write(tmp_path / "images" / "test" / "cat" / "3.png", 32)
    assert len(ood_set(f"cifar10={tmp_path / 'images'}", image_size=32)) == 2
    arrays = tmp_path / "arrays" / "cifar10.npz"
    arrays.parent.mkdir()
    images = np.zeros((10, 32, 32, 3), np.uint8)
    np.savez(arrays, train_images=images, train_labels=np.arange(10), test_images=images[:4], test_labels=np.arange(4))
    assert len(ood_set(f"cifar10={arrays.parent}", image_size=32)) == 4
    with pytest.raises(FileNotFoundError, match="cifar100 is not in"):
        ood_set(f"cifar100={arrays.parent}", image_size=32)
    for number in range(10):
        write(tmp_path / "trained" / "train" / f"class{number}" / "1.png", 32)
    with pytest.raises(FileNotFoundError, match="holds training images of cifar10 and no test/"):
        ood_set(f"cifar10={tmp_path / 'trained'}", image_size=32)


def test_sets_that_share_a_folder_do_not_take_each_others_images(tmp_path: Path) -> None:
    write(tmp_path / "dtd" / "dtd" / "images" / "banded" / "banded_1.jpg", 40)
    write(tmp_path / "LSUN_resize" / "LSUN_resize" / "0.jpg", 32)
    with pytest.raises(FileNotFoundError, match="cifar10 is not in"):
        ood_set(f"cifar10={tmp_path}", image_size=32)
    np.savez(tmp_path / "cifar10.npz", **{
        f"{split}_{what}": array for split in ("train", "test")
        for what, array in (("images", np.zeros((10, 32, 32, 3), np.uint8)), ("labels", np.arange(10)))
    })  # fmt: skip
    assert len(ood_set(f"cifar10={tmp_path}", image_size=32)) == 10
    assert len(ood_set(f"dtd={tmp_path}", image_size=32)) == 1
    assert len(ood_set(f"lsun-resize={tmp_path}", image_size=32)) == 1
    (tmp_path / "dtd" / "dtd" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="dtd is not in"):
        ood_set(f"dtd={tmp_path}", image_size=32)


@pytest.mark.parametrize("name", ["dtd", "cifar10"])
@pytest.mark.parametrize("inner", ["", "cat"])
def test_class_folders_or_loose_images_are_a_set(tmp_path: Path, name: str, inner: str) -> None:
    write(tmp_path / inner / "1.png", 32)
    assert len(ood_set(f"{name}={tmp_path}", image_size=32)) == 1


def test_tiny_imagenet_cropped_and_resized(tmp_path: Path) -> None:
    write(tmp_path / "train" / "n01" / "images" / "0.png", 64)
    for k in range(6):
        path = tmp_path / "val" / "images" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(64, dtype=np.uint8)[:, None, None]
        Image.fromarray(np.broadcast_to(rows, (64, 64, 3)).copy()).save(path)
    resized = ood_set(f"tinyimagenet-resize={tmp_path}", image_size=32)
    assert len(resized) == 6
    assert resized.images[0, 0, :, 0].float().diff().mean().item() == pytest.approx(2, abs=0.1)  # type: ignore[union-attr]
    crops = ood_set(f"tinyimagenet-crop={tmp_path}", image_size=32, generator=generator())
    assert isinstance(crops, ArrayDataset)
    rows = crops.images[:, 0, :, 0].int()
    assert (rows.diff(dim=1) == 1).all()
    assert len(set(rows[:, 0].tolist())) > 1
    with pytest.raises(ValueError, match=r"images of 64x64 pixels in .* cannot be cropped to the 96 that"):
        ood_set(f"tinyimagenet-crop={tmp_path}", image_size=96)
    write(tmp_path / "large" / "0.png", 200)
    with pytest.raises(ValueError, match=r"images of 200x200 pixels in .*large are not of tinyimagenet-crop"):
        ood_set(f"tinyimagenet-crop={tmp_path / 'large'}", image_size=32)


def test_crops_begin_at_every_place_where_they_fit(tmp_path: Path) -> None:
    pixels = np.arange(81, dtype=np.uint8).reshape(9, 9)
    for k in range(60):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    crops = ood_set(f"lsun-crop={tmp_path}", image_size=8, generator=generator())
    assert set(crops.images[:, 0, 0, 0].tolist()) == {0, 1, 9, 10}  # type: ignore[union-attr]


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no images \(.jpg, .*\), which mine needs"):
        ood_set(f"mine={tmp_path / 'empty'}", image_size=32)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: expected the images of mine"):
        ood_set(f"mine={tmp_path / 'nowhere'}", image_size=32)
    with pytest.raises(ValueError, match="NAME=FOLDER, or is one of gaussian-noise, uniform-noise; got 'dtd'"):
        ood_set("dtd", image_size=32)
    with pytest.raises(ValueError, match="made, not read"):
        ood_set("gaussian-noise=x", image_size=32)
    with pytest.raises(ValueError, match="got image_size=0, channels=3, limit=None"):
        ood_set("gaussian-noise", image_size=0)
    (tmp_path / "empty" / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read the image"):
        ood_set(f"mine={tmp_path / 'empty'}", image_size=32)


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "dtd" / "images" / "banded" / "banded_1.jpg", 40)
    (tmp_path / "dtd" / "images" / "banded" / "banded_2.avif").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"1 pictures in \S+ are left out, since \.avif is not read: convert"):
        assert len(ood_set(f"dtd={tmp_path}", image_size=32)) == 1
