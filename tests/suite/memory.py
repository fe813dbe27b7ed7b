"""What the tests of the parts evaluate with: a store in memory, progress that nobody reads, and colours."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from multimix import data
from multimix.models import build
from multimix.suite.part import Legend, Subject

T = TypeVar("T")
COLORS = {"erm": "#8a8a8a", "cutmix": "#56b4e9", "multimix": "#e69f00"}
LEGEND = Legend(COLORS, {"cutmix": "erm", "multimix": "erm"})


class Memory:
    """A store in memory, for one set of options, that may be interrupted after some new results, as by Ctrl-C."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.left = math.inf

    def compute(self, key: str, function: Callable[[], T], *, depends_on: Mapping[str, Any] | None = None) -> T:
        if key not in self.kept:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.kept[key] = json.dumps(function())
        value: T = json.loads(self.kept[key])
        return value

    def path(self, name: str) -> Path:
        return self.folder / name


def quiet(words: str) -> None:
    """Progress that nobody reads."""


def tiny_subject(model: str, class_names: tuple[str, ...]) -> Subject:
    """An untrained classifier of noise, 16 x 16 pixels."""
    g = torch.Generator().manual_seed(0)
    classes = len(class_names)
    net = build(model, num_classes=classes, image_size=16, generator=g).eval()
    test = data.ArrayDataset(torch.randint(0, 256, (9, 3, 16, 16), generator=g).byte(), torch.arange(9) % classes)
    return Subject(
        label="erm", seed=0, model=net, train=None, test=test, class_names=class_names, image_size=16, batch_size=4,
        method="erm",
    )  # fmt: skip
