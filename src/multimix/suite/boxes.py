"""Detection sets, and images of other sets, as the parts of an evaluation take them."""

from __future__ import annotations

import functools
from pathlib import Path

from torch import Tensor

from .. import data
from ..data.boxes import BoxedImages, Purpose, read_boxes
from .fingerprint import fingerprint
from .part import Subject

__all__ = ["is_grey", "read_boxes_once", "to_input"]


def read_boxes_once(folder: Path, split: str | None, *, purpose: Purpose = "testing") -> BoxedImages:
    """As `read_boxes`; read again only when the files have changed, since the models of a page share them."""
    return _read(folder, split, purpose, fingerprint(folder))


@functools.lru_cache(maxsize=4)
def _read(folder: Path, split: str | None, purpose: Purpose, state: str) -> BoxedImages:
    return read_boxes(folder, split, purpose=purpose)


def is_grey(subject: Subject) -> bool:
    """Whether the subject's model takes images of one channel."""
    return isinstance(subject.test, data.ArrayDataset) and subject.test.images.shape[1] == 1


def to_input(images: Tensor, subject: Subject) -> Tensor:
    """RGB pixels (b, 3, h, w), uint8, as the subject's model takes them."""
    images = images.float() / 255
    # The weights of ITU-R 601, as in Pillow.
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True) if is_grey(subject) else images
