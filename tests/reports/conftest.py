"""Runs made up in files, for the arithmetic; and one real comparison on digits, for everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from tests.forked_workers import fork_workers

from multimix import cli
from multimix.reports import speed
from multimix.training import Config

METHODS = "erm,multimix,dense-multimix(n=50)"
COMMAND = ["compare", "digits", "--methods", METHODS, "--seeds", "2", "--epochs", "3", "--jobs", "2"]

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run as training leaves it, with given test accuracies (None: not evaluated), without weights."""

    def evaluated(accuracy: float) -> dict[str, float | None]:
        loss, ece = 1 - accuracy, (1 - accuracy) / 2
        return {"test_loss": loss, "test_accuracy": accuracy, "test_top5": None, "test_ece": ece}

    def make(
        name: str,
        *,
        method: str = "erm",
        seed: int = 0,
        accuracies: Sequence[float | None] = (0.5, 0.75),
        finished: bool = True,
        classes: Sequence[str] = ("cat", "dog"),
        **settings: object,
    ) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        values = {"data": "imagefolder", "data_root": tmp_path / "nowhere", "epochs": len(accuracies), **settings}
        config = Config(method=method, seed=seed, **values)  # type: ignore[arg-type]
        info = {"num_classes": len(classes), "class_names": list(classes), "image_size": 8}
        info |= {"mean": [0.5] * 3, "std": [0.25] * 3, "train_examples": 100, "val_examples": 0, "test_examples": 40}
        (path / "config.json").write_text(json.dumps({**config.to_json(), "data_info": info}))
        epochs = [
            {
                "epoch": epoch,
                "step": 3 * epoch,
                "lr": 0.1,
                "train_loss": 1 / epoch,
                "train_accuracy": None,
                **({} if accuracy is None else evaluated(accuracy)),
                "timing": {"seconds": 2.0, "train_seconds": 1.5, "images_per_second": 64.0},
            }
            for epoch, accuracy in enumerate(accuracies, start=1)
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
        if finished:
            (path / "result.json").write_text(json.dumps({"epochs": len(epochs), "last": epochs[-1]}))
        return path

    return make


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small real comparison, made once, also when several processes run the tests."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the folder of the whole test run, where each process has one of its own
    folder = shared / "comparison"
    with FileLock(shared / "comparison.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "report.html").is_file():
            fork_workers(patch)
            patch.setattr(speed, "ROUNDS", 2)
            patch.setattr(speed, "SECONDS", 0.0)
            cli.main([*COMMAND, "--out", str(folder)])
    return folder
