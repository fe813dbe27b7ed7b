"""Detection sets, and images of other sets, as the parts of an evaluation take them."""

from __future__ import annotations

import functools
from pathlib import Path

from torch import Tensor

from ..data.boxes import BoxedImages, Purpose, read_boxes
from ..data.pictures import luma
from .fingerprint import fingerprint
from .part import Subject

__all__ = ["read_boxes_once", "to_input"]


def read_boxes_once(folder: Path, split: str | None, *, purpose: Purpose = "testing") -> BoxedImages:
    """As `read_boxes`; read again only when the files have changed, since the models of a page share them."""
    return _read(folder, split, purpose, fingerprint(folder))


@functools.lru_cache(maxsize=4)
def _read(folder: Path, split: str | None, purpose: Purpose, state: str) -> BoxedImages:
    return read_boxes(folder, split, purpose=purpose)


def to_input(images: Tensor, subject: Subject) -> Tensor:
    """RGB pixels (b, 3, h, w), uint8, as the subject's model takes them."""
    return (luma(images) if subject.test.channels == 1 else images).float() / 255
