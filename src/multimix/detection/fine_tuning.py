"""Fine-tune a detector, so that it can be stopped and continued."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..random import derive_seed, make_generator
from ..training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ..training.interrupt import Interrupted, listening
from ..training.repeatability import seed_global_state
from .images import DetectionImages

__all__ = ["FineTuning", "Progress", "fine_tune"]

MOMENTUM = 0.9
WARMUP = 1000
"""Steps at most; a tenth of the training is enough where it is short."""
DROPS = (2 / 3, 11 / 12)
"""Parts of the training after which the learning rate falls to a tenth: the "1x" schedule of 8, 11 and 12 epochs."""
SAVE_EVERY = 60.0
"""Seconds between two checkpoints, so that a small set does not spend its time on writing them."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a detector is fine-tuned: by SGD with a linear warm-up and two drops of the learning rate to a tenth.

    Raises:
        ValueError: a value out of its range.
    """

    epochs: int
    batch_size: int
    """Images per step; the rest of an epoch is left out, unless it is all."""
    lr: float
    weight_decay: float = 5e-4
    seed: int = 0
    """Of order, dropout and the boxes that a Faster R-CNN samples."""

    def __post_init__(self) -> None:
        if (
            self.epochs < 1
            or self.batch_size < 1
            or not 0 < self.lr < math.inf
            or not 0 <= self.weight_decay < math.inf
        ):
            raise ValueError(
                "epochs and batch_size must be at least 1, lr above 0 and weight_decay at least 0, got "
                f"epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}, weight_decay={self.weight_decay}"
            )

    def learning_rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0) of `steps`.

        >>> settings = FineTuning(epochs=12, batch_size=2, lr=1.0)
        >>> [round(settings.learning_rate(step, 120), 3) for step in (0, 11, 79, 80, 110)]
        [0.083, 1.0, 1.0, 0.1, 0.01]
        """
        warmup = max(1, min(WARMUP, steps // 10))
        return self.lr * min(1.0, (step + 1) / warmup) * 0.1 ** sum(step >= steps * part for part in DROPS)


@dataclass(frozen=True)
class Progress:
    """How far the fine-tuning is."""

    epoch: int
    """The one under way, from 1 on."""
    epochs: int
    loss: float
    """Of the last step."""
    seconds_left: float


@dataclass
class _State:
    step: int = 0
    losses: list[float] = field(default_factory=list)
    """Mean of every finished epoch."""
    total: float = 0.0
    """Sum over the steps of the epoch under way."""


def fine_tune(
    detector: nn.Module,
    images: DetectionImages,
    settings: FineTuning,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> list[float]:
    """Train a torchvision detector in place. The global RNGs of CPU and CUDA are left as they were.

    Args:
        detector: gives a dictionary of losses in training mode.
        images: on the detector's device.
        checkpoint: where the state is kept, about once a minute and when a signal stops the process: the same call
            with a new detector goes on from there. On the CPU the result is that of a call that was never stopped, bit
            for bit.
        progress: called after every step.

    Returns:
        The mean loss of every epoch.

    Raises:
        ValueError: no images, or the loss is no longer finite.
        Interrupted: SIGINT or SIGTERM arrived, and the state has been saved (a KeyboardInterrupt).
    """
    if not len(images):
        raise ValueError("needs images to train on, got none")
    device = next(detector.parameters()).device
    state = _State()
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=settings.lr, momentum=MOMENTUM, weight_decay=settings.weight_decay)
    keeper = _Keeper(checkpoint, settings, state, detector, optimizer)
    keeper.restore()
    detector.train()
    batch = min(settings.batch_size, len(images))
    batches = len(images) // batch
    steps, first, begun = settings.epochs * batches, state.step, time.monotonic()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), listening() as stop:
        try:
            while state.step < steps:
                epoch, done = divmod(state.step, batches)
                order = torch.randperm(len(images), generator=make_generator(settings.seed, epoch, "order of boxes"))
                for pixels, targets in images.batches(epoch, order.split(batch)[done:batches]):
                    # Faster R-CNN samples boxes with the global generators, which are lent to it.
                    seed_global_state(derive_seed(settings.seed, state.step, "detector"), device)
                    for group in optimizer.param_groups:
                        group["lr"] = settings.learning_rate(state.step, steps)
                    loss = _step(detector, optimizer, pixels, targets)
                    state.step += 1
                    state.total += loss
                    if state.step % batches == 0:
                        state.losses.append(state.total / batches)
                        state.total = 0.0
                    left = (time.monotonic() - begun) / (state.step - first) * (steps - state.step)
                    progress(Progress(epoch + 1, settings.epochs, loss, left))
                    keeper.keep(now=stop.received or state.step == steps)
                    if stop.received:
                        raise Interrupted(f"stopped after step {state.step} of {steps}")
        except Exception as error:
            if stop.received:
                # The signal may have caused it, and is not to be forgotten over it.
                raise Interrupted(f"stopped in step {state.step + 1} of {steps}") from error
            raise
    return state.losses


def _step(
    detector: nn.Module, optimizer: torch.optim.Optimizer, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> float:
    """Forward, backward and update; the sum of the losses."""
    losses: dict[str, Tensor] = detector(images, targets)
    loss = torch.stack(list(losses.values())).sum()
    value = loss.item()
    if not math.isfinite(value):
        told = ", ".join(f"{name} {part.item():.4g}" for name, part in losses.items())
        raise ValueError(f"the detector's loss is no longer finite ({told}): use a lower learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return value


class _Keeper:
    """Reads and writes the checkpoint, if there is to be one; a disk that cannot be written stops no training."""

    def __init__(
        self,
        path: Path | None,
        settings: FineTuning,
        state: _State,
        detector: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._path, self._settings, self._state = path, settings, state
        self._detector, self._optimizer, self._saved = detector, optimizer, time.monotonic()

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            CheckpointError: it is damaged, or of another fine-tuning.
        """
        if self._path is None:
            return
        try:
            content = load_checkpoint(self._path)
            if content["settings"] != dataclasses.asdict(self._settings):
                raise CheckpointError(f"{self._path} is of another fine-tuning")
            self._detector.load_state_dict(content["detector"])
            self._optimizer.load_state_dict(content["optimizer"])
            vars(self._state).update(content["state"])
        except FileNotFoundError:
            return
        except (CheckpointError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"cannot go on with the fine-tuning in {self._path}: {error}: remove the file to start anew"
            ) from error

    def keep(self, *, now: bool) -> None:
        if self._path is None or not (now or time.monotonic() - self._saved >= SAVE_EVERY):
            return
        content: dict[str, Any] = {
            "settings": dataclasses.asdict(self._settings),
            "state": dataclasses.asdict(self._state),
            "detector": self._detector.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(self._path, content)
        except OSError as error:
            # The disk may have room again in a minute.
            warnings.warn(f"the fine-tuning so far cannot be saved for later: {error}", stacklevel=3)
        self._saved = time.monotonic()
