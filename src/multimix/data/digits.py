"""Scikit-learn's handwritten digits: 1797 images of 8x8 pixels, which come with the library."""

from __future__ import annotations

import torch

from ..extras import require
from .datasets import ArrayDataset
from .source import Source
from .subsets import choose

__all__ = ["MEAN", "STD", "TEST_PER_CLASS", "digits"]

# Of the 927 training images, with pixels in [0, 1].
MEAN, STD = (0.3050,), (0.3755,)

# Nearly half, so that differences of a percent between methods can be seen.
TEST_PER_CLASS = 87


def digits() -> Source:
    """927 images to train on and 870 to test on, 87 of each class, always the same ones."""
    raw = require("sklearn.datasets", "train").load_digits()
    # 17 grey levels, 0 to 16
    images = torch.from_numpy(raw.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    dataset = ArrayDataset(images, torch.from_numpy(raw.target))
    names = tuple(str(digit) for digit in range(10))
    train, test = choose(dataset.labels, names, per_class=None, held_out=TEST_PER_CLASS, seed=0)
    return Source({"train": dataset.subset(train), "test": dataset.subset(test)}, names)
