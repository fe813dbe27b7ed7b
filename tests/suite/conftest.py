"""A run on digits with weights that were never trained: enough for everything but its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from multimix import data, models
from multimix.training import Config
from multimix.training.weights import save_weights

MakeDigitsRun = Callable[..., Path]


@pytest.fixture
def digits_run(tmp_path: Path) -> MakeDigitsRun:
    """Write the directory of a finished run with the given method, seed and weights of that seed."""

    def make(name: str, *, method: str = "erm", seed: int = 0, weights: bool = True) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        splits = data.load("digits", per_class=5)
        config = Config(data="digits", per_class=5, model="smallnet-w4", method=method, seed=seed, accelerator="cpu")
        info = {"num_classes": 10, "class_names": list(splits.class_names), "image_size": 8}
        info |= {"mean": list(splits.mean), "std": list(splits.std), "train_examples": 50, "val_examples": 0}
        info |= {"test_examples": len(splits.test)}
        (path / "config.json").write_text(json.dumps({**config.to_json(), "data_info": info}))
        epoch = {"epoch": 1, "train_loss": 2.3, "test_loss": 2.3, "test_accuracy": 0.1, "test_ece": 0.1}
        (path / "metrics.jsonl").write_text(json.dumps({**epoch, "timing": {"seconds": 1.0}}) + "\n")
        (path / "result.json").write_text("{}")
        if weights:
            generator = torch.Generator().manual_seed(seed)
            model = models.build(
                "smallnet-w4", num_classes=10, image_size=8, mean=splits.mean, std=splits.std, generator=generator
            )
            save_weights(path / "model.safetensors", model.state_dict())
            save_weights(path / "best.safetensors", model.state_dict())
        return path

    return make
