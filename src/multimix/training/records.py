"""What a run writes for people to read: its environment, its metrics, its result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ..machine import cpu_name

__all__ = ["TensorBoard", "best_record", "environment", "selection_metric"]


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions and hardware, for environment.json."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("multimix", "lightning-fabric", "torchvision", "timm", "numpy", "safetensors"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    hardware = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world_size,
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    return {"versions": versions, "hardware": hardware, "command": sys.argv}


def selection_metric(record: Mapping[str, Any]) -> str:
    """The metric that chooses the best epoch: validation accuracy where there is a validation split."""
    return "val_accuracy" if "val_accuracy" in record else "test_accuracy"


def best_record(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first epoch with the highest accuracy by `selection_metric`, among those that were evaluated.

    >>> best_record([{"epoch": 1}, {"epoch": 2, "test_accuracy": 0.5}, {"epoch": 3, "test_accuracy": 0.5}])["epoch"]
    2
    """
    return max(history, key=lambda record: record.get(selection_metric(record), -1.0))


class TensorBoard(AbstractContextManager["TensorBoard"]):
    """The numbers of metrics.jsonl as TensorBoard curves over epochs; without a directory it does nothing."""

    def __init__(self, directory: Path | None, first_epoch: int) -> None:
        self._writer = None
        if directory is not None:
            from ..extras import require

            tensorboard = require("torch.utils.tensorboard", "train")
            # On resume, curves of epochs after the checkpoint are hidden and drawn again.
            self._writer = tensorboard.SummaryWriter(str(directory), purge_step=first_epoch)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one line of metrics.jsonl."""
        if self._writer is None:
            return
        for name, value in {**record, **record["timing"]}.items():
            if isinstance(value, int | float) and name != "epoch":
                split, _, metric = name.partition("_")
                tag = f"{split}/{metric}" if split in ("train", "val", "test") else name
                self._writer.add_scalar(tag, value, record["epoch"])
        self._writer.flush()

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
