"""Running sums of an epoch, kept on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Meters", "Totals"]


class Totals(NamedTuple):
    """Sums over the micro-batches of an epoch so far, on the host.

    >>> (Totals(loss=3.0, batches=2) + Totals(loss=1.0, batches=2)).mean_loss
    1.0
    """

    loss: float = 0.0
    batches: int = 0
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


class Meters:
    """The sums of one rank. Adding never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restore(Totals())

    def restore(self, totals: Totals) -> None:
        """Go on from `totals`; a new epoch starts from `Totals()`."""
        # Sums of many small losses want double precision; MPS has none.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._loss = torch.tensor(totals.loss, dtype=dtype, device=self.device)
        self._correct = torch.tensor(totals.correct, device=self.device)
        self._bad_step = torch.tensor(totals.bad_step, device=self.device)
        self._batches, self._clean = totals.batches, totals.clean
        self._underway: tuple[Tensor, int, int, torch.cuda.Event] | None = None

    def add(self, loss: Tensor, correct: Tensor | None, examples: int, step: int) -> None:
        """One micro-batch of `examples` images at optimiser step `step`."""
        loss = loss.detach()
        self._bad_step = torch.where((self._bad_step < 0) & ~loss.isfinite(), step, self._bad_step)
        self._loss += loss
        self._batches += 1
        if correct is not None:
            self._correct += correct
            self._clean += examples

    def totals(self) -> Totals:
        """The sums so far; waits for the device."""
        return _read(self._stack().cpu(), self._batches, self._clean)

    def glance(self) -> Totals | None:
        """The sums at some earlier call, without waiting for a CUDA device; None if they are not there yet."""
        if self.device.type != "cuda":
            return self.totals()
        seen = None
        if self._underway is not None and self._underway[3].query():
            seen = _read(*self._underway[:3])
            self._underway = None
        if self._underway is None:
            copied = self._stack().to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._underway = copied, self._batches, self._clean, event
        return seen

    def _stack(self) -> Tensor:
        return torch.stack([self._loss, self._correct.to(self._loss), self._bad_step.to(self._loss)])


def _read(sums: Tensor, batches: int, clean: int) -> Totals:
    loss, correct, bad_step = sums.tolist()
    return Totals(loss, batches, int(correct), clean, int(bad_step))
