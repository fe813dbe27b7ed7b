"""What a run writes for people to read: its environment, its metrics, its result."""

from __future__ import annotations

import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch

from ..extras import require
from ..machine import cpu_name, versions

__all__ = ["TensorBoard", "best_record", "environment", "selection_metric"]


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions and hardware, for environment.json."""
    hardware = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world_size,
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    used = versions("multimix", "lightning-fabric", "torchvision", "timm", "numpy", "safetensors")
    return {"versions": used, "hardware": hardware, "command": sys.argv}


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
    """The numbers of metrics.jsonl as TensorBoard curves over epochs; without a directory it does nothing.

    Where they cannot be written there are no more of them, after a warning: training does not suffer from it.
    """

    def __init__(self, directory: Path | None, first_epoch: int) -> None:
        self._writer = None
        self._hook = threading.excepthook
        self._ours: Callable[[threading.ExceptHookArgs], object] | None = None
        if directory is not None:
            tensorboard = require("torch.utils.tensorboard", "train")
            # On resume, curves of epochs after the checkpoint are hidden and drawn again.
            try:
                self._writer = tensorboard.SummaryWriter(str(directory), purge_step=first_epoch)
            except OSError as error:
                self._give_up(error)
            else:
                threading.excepthook = self._ours = self._leave_to_us

    def _leave_to_us(self, thrown: threading.ExceptHookArgs) -> None:
        """The thread that writes hands its errors on; as every thread does, it would print a traceback too."""
        if not (issubclass(thrown.exc_type, OSError) and type(thrown.thread).__name__ == "_AsyncWriterThread"):
            self._hook(thrown)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one line of metrics.jsonl."""
        if self._writer is None:
            return
        try:
            self._add(self._writer, record)
        except OSError as error:
            with suppress(OSError):
                self._writer.close()
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        warnings.warn(f"no more TensorBoard curves ({error}); metrics.jsonl has their numbers", stacklevel=3)

    def _add(self, writer: Any, record: Mapping[str, Any]) -> None:
        for name, value in {**record, **record["timing"]}.items():
            if isinstance(value, int | float) and name != "epoch":
                split, _, metric = name.partition("_")
                tag = f"{split}/{metric}" if split in ("train", "val", "test") else name
                writer.add_scalar(tag, value, record["epoch"])
        writer.flush()

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        if self._ours is not None and threading.excepthook is self._ours:
            threading.excepthook = self._hook
