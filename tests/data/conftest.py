from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MULTIMIX_CACHE", str(folder))
    return folder


@contextmanager
def unchanged_global_state() -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(np.array_equal(a, b) for a, b in zip(before[2], after[2], strict=True))


@pytest.fixture
def global_state() -> Callable[[], object]:
    return unchanged_global_state


def picture(path: Path, width: int, height: int, seed: int) -> None:
    """A picture with structure at every scale, so that a shifted, flipped or cut copy is another picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def write_image() -> Callable[[Path, int, int, int], None]:
    return picture


@pytest.fixture
def tree() -> Callable[..., Path]:
    """Writes ROOT/SPLIT/CLASS/I.png for `{"train": {"cat": 3}}` and the like."""

    def write(
        root: Path,
        counts: dict[str, dict[str, int]],
        *,
        width: int = 8,
        height: int | None = None,
        suffix: str = ".png",
    ) -> Path:
        seed = 0
        for split, classes in counts.items():
            for name, count in classes.items():
                (root / split / name).mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    seed += 1
                    picture(root / split / name / f"{i}{suffix}", width, height or width, seed)
        return root

    return write
