"""Images of more than 8 bits: scaled where their range is known, refused where it is not, in memory and from files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimix.data import Batch, FileDataset, UnreadableImageError, load, loader, pictures

RAMP = np.linspace(0, 65535, 12 * 8).round().reshape(8, 12)
"""Every grey between black and white, of an uneven shape, so that a wrongly turned image is noticed."""


def write(path: Path, bits: int, grey: np.ndarray = RAMP) -> None:
    """A grey image with `bits` of each pixel, 8 or 16; grey goes up to 65535."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == "big-endian.tif":
        Image.fromarray(grey.astype(">u2")).save(path)
    elif path.name == "text.pgm":
        path.write_text(f"P2 {grey.shape[1]} {grey.shape[0]} 65535\n{' '.join(str(int(v)) for v in grey.flat)}\n")
    else:
        image = np.rint(grey / 257).astype(np.uint8) if bits == 8 else grey.astype(np.uint16)
        Image.fromarray(image).save(path)


def tiff(path: Path, bits: int, content: bytes) -> None:
    """An uncompressed grey TIFF of the ramp's shape."""
    height, width = RAMP.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(content))
    path.write_bytes(header + content + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big-endian.tif", "a.pgm", "text.pgm"])
def test_sixteen_bits_are_divided_by_257_and_rounded(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, 16)
    read = pictures.read(tmp_path / name)
    assert read.mode == "RGB"
    expected = np.rint(RAMP / 257).astype(np.uint8)
    assert torch.equal(pictures.pixels(read), torch.from_numpy(expected).expand(3, -1, -1))
    assert pictures.is_readable(tmp_path / name)


def test_twelve_bits_reach_white_too(tmp_path: Path) -> None:
    values = np.rint(RAMP / 65535 * 4095).astype(int).ravel()
    pairs = zip(values[::2].tolist(), values[1::2].tolist(), strict=True)
    packed = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in pairs)
    tiff(tmp_path / "a.tif", 12, packed)
    found = pictures.pixels(pictures.read(tmp_path / "a.tif"))[0].flatten()
    assert found.tolist() == np.rint(values * 255 / 4095).tolist()


@pytest.mark.parametrize("image_size", [8, 112])
def test_a_set_of_sixteen_bits_is_that_of_eight(tmp_path: Path, image_size: int) -> None:
    # Slow enough in space that averaging leaves its contrast.
    y, x = np.mgrid[:120, :120]
    for split in ("train", "test"):
        for name, grey in (("cat", (y + x) * 257), ("dog", (255 - y) * 257)):
            for bits in (8, 16):
                write(tmp_path / str(bits) / split / name / "0.png", bits, grey)
    images = []
    for bits in (8, 16):
        data = load("imagefolder", root=tmp_path / str(bits), image_size=image_size)
        assert isinstance(data.train, FileDataset) == (image_size > pictures.SMALL_SIDE)
        images.append(next(loader(data.train, batch_size=2, train=False, workers=0).batches(0)).images)
    assert torch.equal(*images)
    assert images[1].max() - images[1].min() > 0.7


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_orientation_means_the_same_for_sixteen_bits(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for bits, image in ((8, np.rint(RAMP / 257).astype(np.uint8)), (16, RAMP.astype(np.uint16))):
        Image.fromarray(image).save(tmp_path / f"{bits}{suffix}", exif=exif)
    eight, sixteen = (pictures.pixels(pictures.read(tmp_path / f"{bits}{suffix}")) for bits in (8, 16))
    assert torch.equal(eight, sixteen)
    assert pictures.side(tmp_path / f"16{suffix}") == (eight.shape[2], eight.shape[1])


@pytest.mark.parametrize(("mode", "kind"), [("F", np.float32), ("I", np.int32)])
@pytest.mark.parametrize("image_size", [8, 112])
def test_values_of_no_known_range_are_refused_or_left_out(
    tmp_path: Path, tree, mode: str, kind: type, image_size: int
) -> None:
    root = tree(tmp_path, {"train": {"cat": 2, "dog": 1}, "test": {"dog": 1}})
    path = root / "train" / "cat" / "x.tif"
    Image.fromarray((RAMP / 65535).astype(kind)).save(path)
    assert not pictures.is_readable(path)
    message = rf"^cannot read the image .*cat/x\.tif: [^\n]* mode {mode}[^\n]*: convert it to 8 bits, or leave out"

    def first_epoch() -> list[Batch]:
        data = load("imagefolder", root=root, image_size=image_size)
        return list(loader(data.train, batch_size=3, train=False, workers=0).batches(0))

    with pytest.raises(UnreadableImageError, match=message):
        first_epoch()
    with pytest.warns(UserWarning, match="left out 1 of 5 images"):
        data = load("imagefolder", root=root, image_size=image_size, bad_images="skip")
    assert data.skipped == (str(path),)


def test_images_decoded_when_they_were_read_otherwise_are_decoded_anew(tmp_path: Path, tree, monkeypatch) -> None:
    root = tree(tmp_path, {"train": {"cat": 1, "dog": 1}, "test": {"dog": 1}})
    decoded = []
    read = pictures.read
    monkeypatch.setattr(pictures, "read", lambda path: (decoded.append(path), read(path))[1])
    for version, times in ((pictures.VERSION - 1, 3), (pictures.VERSION - 1, 3), (pictures.VERSION, 6)):
        monkeypatch.setattr(pictures, "VERSION", version)
        load("imagefolder", root=root)
        assert len(decoded) == times
