"""Weights as safetensors, and finished runs as models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..extras import require
from ..files import write_atomically
from ..models import SplitModel, build
from .checkpoint import load_checkpoint
from .config import Config
from .rundir import RunDirectory

__all__ = ["load_run", "model_weights", "save_weights"]


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state dictionary as safetensors, atomically."""
    safetensors = require("safetensors.torch", "train")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, lambda file: file.write(safetensors.save(plain, metadata={"format": "pt"})))


def load_run(
    run_dir: Path | str, *, which: Literal["last", "best"] = "last", device: torch.device | str = "cpu"
) -> tuple[Config, SplitModel]:
    """The configuration and the trained model, in evaluation mode on `device`, of a run directory.

    Args:
        run_dir: what `train` returned, or `multimix train --out`.
        which: the weights of the last epoch, or of the best (by validation accuracy where there is a validation
            split, else by test accuracy). Averaged weights if the run averaged. For a run that has not finished,
            those of its last or best checkpoint.
        device: where to put the model.

    Raises:
        FileNotFoundError: `run_dir` is not a run, or has no weights yet.
        ValueError: `which` is neither, or the weights are damaged or do not fit.
    """
    if which not in ("last", "best"):
        raise ValueError(f"which must be 'last' or 'best', got {which!r}")
    run = RunDirectory(Path(run_dir))
    config, data_info = run.read_config()
    weights = _read_weights(run, which)
    model = build(
        config.model,
        num_classes=data_info["num_classes"],
        image_size=data_info["image_size"],
        mean=data_info["mean"],
        std=data_info["std"],
        generator=torch.Generator().manual_seed(0),
    )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {run.path} do not fit the model {config.model!r}: {error}") from error
    return config, model.to(device).eval()


def _read_weights(run: RunDirectory, which: str) -> dict[str, Tensor]:
    path = run.weights_or_checkpoint(which)
    if path == run.weights(which):
        safetensors = require("safetensors.torch", "train")
        try:
            loaded: dict[str, Tensor] = safetensors.load_file(path)
        except OSError:
            raise
        except Exception as error:  # safetensors has an exception type of its own
            checkpoint = run.checkpoint(which)
            fix = f"delete it, and the weights of {checkpoint} are read" if checkpoint.is_file() else "train anew"
            raise ValueError(f"{path} is damaged: {error}: {fix}") from error
        return loaded
    return model_weights(load_checkpoint(path))


def model_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the evaluated model in a checkpoint: the averaged ones, if there are any."""
    if checkpoint["average"] is not None:
        averaged: dict[str, Tensor] = checkpoint["average"]["model"]
        return averaged
    module = checkpoint["module"]
    return {name.removeprefix("model."): module[name] for name in module if name.startswith("model.")}
