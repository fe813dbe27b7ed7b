"""Running sums of an epoch, which wait for the device only when they are read."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Meters", "Totals"]


class Totals(NamedTuple):
    """Sums over the micro-batches of an epoch so far, on the host.

    >>> (Totals(loss=3.0, batches=2.0) + Totals(loss=1.0, batches=2.0)).mean_loss
    1.0
    """

    loss: float = 0.0
    batches: float = 0.0
    """Of a micro-batch, and of its loss, the share that it has in the batch of its step."""
    correct: int = 0
    clean: int = 0
    bad_step: int = -1
    """The first step (from 0) with a loss that is not finite, or -1."""

    def __add__(self, other: Totals) -> Totals:  # type: ignore[override]
        bad = [step for step in (self.bad_step, other.bad_step) if step >= 0]
        return Totals(
            loss=self.loss + other.loss,
            batches=self.batches + other.batches,
            correct=self.correct + other.correct,
            clean=self.clean + other.clean,
            bad_step=min(bad, default=-1),
        )

    @property
    def mean_loss(self) -> float | None:
        """None before the first micro-batch."""
        return self.loss / self.batches if self.batches else None

    @property
    def accuracy(self) -> float | None:
        """Fraction of the clean images classified correctly; None where the method has no clean logits."""
        return self.correct / self.clean if self.clean else None


class _Added(NamedTuple):
    loss: Tensor
    share: float
    correct: Tensor | None
    examples: int
    step: int


class Meters:
    """The sums of one rank. Adding launches nothing on the device and never waits for it.

    What is added stays on the device until somebody looks, and is then summed on the host: in the order of the steps
    and in double precision, so that the sums do not depend on when anybody looked.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restore(Totals())

    def restore(self, totals: Totals) -> None:
        """Go on from `totals`; a new epoch starts from `Totals()`."""
        self._totals = totals
        self._pending: list[_Added] = []
        self._underway: tuple[Tensor, list[_Added], torch.cuda.Event] | None = None

    def add(self, loss: Tensor, correct: Tensor | None, examples: int, step: int, *, share: float = 1.0) -> None:
        """A micro-batch of `examples` images, a `share` of those of optimiser step `step`.

        Its loss must not be changed in place.
        """
        self._pending.append(_Added(loss.detach(), share, correct, examples, step))

    def totals(self) -> Totals:
        """The sums so far; waits for the device."""
        if self._underway is not None:
            self._underway[2].synchronize()
            self._land()
        if self._pending:
            self._totals = _sum(self._totals, _together(self._pending).tolist(), self._pending)
            self._pending = []
        return self._totals

    def glance(self) -> Totals | None:
        """The sums at some earlier call, without waiting for a CUDA device; None if they are not there yet."""
        if self.device.type != "cuda":
            return self.totals()
        seen = None
        if self._underway is not None and self._underway[2].query():
            self._land()
            seen = self._totals
        if self._underway is None and self._pending:
            copied = _together(self._pending).to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._underway, self._pending = (copied, self._pending, event), []
        return seen

    def _land(self) -> None:
        assert self._underway is not None
        copied, added, _ = self._underway
        self._totals = _sum(self._totals, copied.tolist(), added)
        self._underway = None


def _together(added: list[_Added]) -> Tensor:
    """One vector to be read at once: the losses, then the numbers of correct images that there are."""
    losses = torch.stack([entry.loss for entry in added])
    # Whole numbers of images are exact in float32, and not in half precision.
    losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
    correct = [entry.correct for entry in added if entry.correct is not None]
    return torch.cat([losses, torch.stack(correct).to(losses.dtype)]) if correct else losses


def _sum(totals: Totals, values: list[float], added: list[_Added]) -> Totals:
    correct = iter(values[len(added) :])
    for loss, entry in zip(values, added, strict=False):
        clean = entry.correct is not None
        totals += Totals(
            loss=loss * entry.share,
            batches=entry.share,
            correct=int(next(correct)) if clean else 0,
            clean=entry.examples if clean else 0,
            bad_step=-1 if math.isfinite(loss) else entry.step,
        )
    return totals
