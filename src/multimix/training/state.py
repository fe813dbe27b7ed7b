"""Everything that changes while a run goes on: what a checkpoint holds, and nothing else has to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..models import SplitModel
from .averaging import MovingAverage
from .checkpoint import CheckpointError
from .config import Config
from .devices import Ranks
from .meters import Meters, Totals
from .step import TrainingStep

if TYPE_CHECKING:
    from lightning_fabric.plugins import Precision

__all__ = ["TrainingState"]


@dataclass
class TrainingState:
    """The mutable part of a run. There is no RNG state: every draw derives from (seed, step, rank, purpose)."""

    module: TrainingStep
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    precision: Precision
    meters: Meters
    epoch: int = 0
    """Finished epochs; also the number, from 0, of the one under way."""
    batch: int = 0
    """Batches done in the epoch under way."""
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Wall-clock time of the finished epochs."""
    train_seconds: float = 0.0
    """Wall-clock time of the training steps of the epoch under way."""
    other_seconds: float = 0.0
    """Wall-clock time of the epoch under way that went into evaluation and checkpoints."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""

    @property
    def evaluated(self) -> SplitModel:
        """The model that is evaluated and exported: the averaged one, if there is one."""
        return self.module.model if self.average is None else self.average.model

    def begin_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.seconds += self.train_seconds + self.other_seconds
        self.batch, self.train_seconds, self.other_seconds = 0, 0.0, 0.0
        self.meters.restore(Totals())

    def capture(self, config: Config, ranks: Ranks) -> dict[str, Any]:
        """The checkpoint; every rank must call it, since each has sums of its own."""
        return {
            "config": json.dumps(config.to_json()),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "seconds": self.seconds,
            "train_seconds": self.train_seconds,
            "other_seconds": self.other_seconds,
            "history": json.dumps(self.history),
            "meters": ranks.gather(tuple(self.meters.totals())),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.precision.state_dict(),
        }

    def restore(self, state: dict[str, Any], ranks: Ranks) -> None:
        """Go on from a checkpoint, on as many ranks as there are now.

        Raises:
            CheckpointError: it does not fit the model, the method or the optimiser.
        """
        try:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision.load_state_dict(state["precision"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            for name in ("epoch", "batch", "step", "seconds", "train_seconds", "other_seconds"):
                setattr(self, name, state[name])
            self.history = json.loads(state["history"])
            totals = [Totals(*values) for values in state["meters"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint does not fit this model and method: {error}") from error
        if len(totals) != ranks.size:
            totals = [sum(totals, Totals())] + [Totals()] * (ranks.size - 1)
        self.meters.restore(totals[ranks.rank])
