"""The loop over epochs and steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data import Batch, Loader, UnreadableImageError
from ..errors import LOADER_DIED
from ..random import derive_seed, make_generator
from .checkpoint import save_checkpoint, save_latest
from .config import Config
from .devices import Ranks
from .evaluate import evaluate_model
from .interrupt import Interrupted, StopRequest
from .meters import Totals
from .optimizers import learning_rate
from .progress import Reporter
from .records import TensorBoard, best_record
from .repeatability import seed_global_state
from .rundir import RunDirectory
from .state import TrainingState
from .step import begin_pass

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer

__all__ = ["DivergenceError", "Loop"]


class DivergenceError(ValueError):
    """The loss or the weights are no longer finite. The last good checkpoint is kept."""


@dataclass
class Loop:
    """The epochs of one run, as one rank sees them."""

    config: Config
    run: RunDirectory
    fabric: Fabric
    ranks: Ranks
    module: _FabricModule
    optimizer: _FabricOptimizer
    state: TrainingState
    loaders: Mapping[str, Loader]
    """By split: train, test, and val and train_clean where there are."""
    batch_images: int
    """Training images per step, over all ranks."""
    stop: StopRequest
    reporter: Reporter
    board: TensorBoard

    def __post_init__(self) -> None:
        self.batches = len(self.loaders["train"])
        self.clock = self.saved_at = time.perf_counter()

    def go(self) -> None:
        """Train and evaluate until the configured number of epochs is done.

        Raises:
            Interrupted: a signal arrived; the state is saved.
            DivergenceError: the loss or the weights are not finite.
            UnreadableImageError, OSError: an image cannot be read; with one process, the state is saved.
        """
        while self.state.epoch < self.config.epochs:
            totals = self.train_epoch()
            self._finish_epoch(totals, self._evaluate() if self._evaluation_due() else {})
            if any(self.ranks.gather(self.stop.received)) and self.state.epoch < self.config.epochs:
                raise self._interrupted()

    def train_epoch(self) -> Totals:
        """Train on what is left of the epoch under way, without evaluating or saving; the sums over all ranks.

        Raises:
            Interrupted: a signal arrived; the state is saved.
            DivergenceError: the loss or the weights are not finite.
        """
        state = self.state
        self.module.train()
        for batch in self._batches("train", state.epoch, start=state.batch):
            self._step(batch.images, batch.targets, batch.extras)
            state.train_seconds += self._tick()
            self._heed(*self.ranks.agree(*self._signals()))
        self._heed(*(self.ranks.settle() or (0.0, 0.0, 0.0)))
        totals = self._finite_totals()
        state.train_seconds += self._tick()
        return totals

    def _batches(self, split: str, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of a loader; where an image cannot be read, one process alone saves what has been done so far."""
        try:
            yield from self.loaders[split].batches(epoch, start=start)
        except (OSError, UnreadableImageError) as error:
            if self.ranks.size > 1:
                raise  # the others wait for this one in their step, and could not save
            self._save()
            raise type(error)(
                f"{error}. The run is saved in {self.run.path}; resuming it needs a readable file under that name, "
                "since without this image the data would be different"
            ) from error
        except RuntimeError as error:
            if self.ranks.size > 1 or LOADER_DIED not in str(error):
                raise
            self._save()
            raise RuntimeError(f"{error} The run is saved in {self.run.path}") from error

    def _step(self, images: Tensor, targets: Tensor, extras: Mapping[str, Tensor]) -> None:
        config, state, rank = self.config, self.state, self.ranks.rank
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, state.step, self.batches)
        pieces = _pieces(images, targets, state.module.method.wanted(extras), config.accumulate)
        for number, (images_, targets_, extras_) in enumerate(pieces):
            # Everything random is a function of where we are, so a resumed run needs no generator state.
            seed_global_state(derive_seed(config.seed, state.step, number, rank, "network"), images.device)
            # Where the examples of all ranks are mixed, all do the same with them, as one device would.
            alike = 0 if state.module.method.gathers else rank
            generator = make_generator(config.seed, state.step, number, alike, "mix")
            if config.channels_last:
                images_ = images_.contiguous(memory_format=torch.channels_last)
            share = len(targets_) / len(targets)
            begin_pass(config)
            with self.fabric.no_backward_sync(self.module, enabled=number + 1 < len(pieces)):
                loss, correct = self.module(images_, targets_, generator, extras_)
                self.fabric.backward(loss if len(pieces) == 1 else loss * share)
            state.meters.add(loss, correct, len(targets_), state.step, share=share)
        if config.clip_norm is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.module.method.after_step(state.module.model)
        if state.average is not None:
            state.average.update(state.module.model)
        state.step += 1
        state.batch += 1

    def _signals(self) -> tuple[float, float, float]:
        """What this rank has to say after a step: stop, save, and whether its loss has gone bad."""
        bad = False
        if self.reporter.due():
            totals = self.state.meters.glance()
            if totals is not None:
                bad = totals.bad_step >= 0
                self.reporter.report(self.state.epoch, self.state.batch, totals)
        minutes, now = self.config.checkpoint_minutes, time.perf_counter()
        save = minutes is not None and now - self.saved_at >= 60 * minutes
        if save:
            self.saved_at = now
        return float(self.stop.received), float(save), float(bad)

    def _heed(self, stop: float, save: float, bad: float) -> None:
        if stop or save or bad:
            self._save()
        if stop:
            raise self._interrupted()

    def _evaluation_due(self) -> bool:
        epoch = self.state.epoch + 1
        return epoch % self.config.evaluate_every == 0 or epoch == self.config.epochs

    def _evaluate(self) -> dict[str, float | None]:
        model = self.state.evaluated
        self.ranks.broadcast_buffers(model)
        metrics = {}
        for split in [split for split in self.loaders if split != "train"]:
            try:
                with self.fabric.autocast():
                    values = evaluate_model(model, self._images_of(split), ranks=self.ranks)
            except FloatingPointError as error:
                raise self._diverged(f"{error} on the {split} split") from None
            metrics.update({f"{split}_{name}": value for name, value in values.items()})
        return metrics

    def _images_of(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        like = next(self.state.evaluated.parameters())
        for batch in self._batches(split, 0):
            if self.stop.received and self.ranks.size == 1:
                # Evaluation of a large set takes minutes; it is done again after a resume.
                self._save()
                raise self._interrupted()
            images = batch.images.to(like.dtype)
            if self.config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            begin_pass(self.config)
            yield images, batch.targets

    def _finish_epoch(self, totals: Totals, metrics: Mapping[str, float | None]) -> None:
        state, config = self.state, self.config
        state.other_seconds += self._tick()
        record: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "lr": learning_rate(config, state.step - 1, self.batches),
            "train_loss": totals.mean_loss,
            "train_accuracy": totals.accuracy,
            **metrics,
            "timing": {
                "seconds": state.train_seconds + state.other_seconds,
                "train_seconds": state.train_seconds,
                "images_per_second": self.batch_images * self.batches / state.train_seconds,
            },
        }
        state.history.append(record)
        improved = bool(metrics) and best_record(state.history) is record
        if self.ranks.rank == 0:
            self.run.append_metrics(record)
            self.board.add(record)
        state.begin_epoch()
        self._save(best=improved)
        self.reporter.report(state.epoch - 1, self.batches, totals, record)

    def _save(self, *, best: bool = False) -> None:
        self._finite_totals()
        checkpoint = self.state.capture(self.config, self.ranks)
        if self.ranks.rank == 0:
            # A kill between the two leaves a best.pt that the resumed run would write again just so.
            if best:
                save_checkpoint(self.run.checkpoint("best"), checkpoint)
            save_latest(self.run.checkpoints, checkpoint)
        self.saved_at = time.perf_counter()
        self.state.other_seconds += self._tick()

    def _finite_totals(self) -> Totals:
        """The sums over all ranks; raises DivergenceError if a loss or a weight is not finite."""
        totals = sum((Totals(*values) for values in self.ranks.gather(tuple(self.state.meters.totals()))), Totals())
        if totals.bad_step >= 0:
            raise self._diverged(f"the loss is not finite at step {totals.bad_step + 1}")
        norm = torch.nn.utils.get_total_norm(self.state.module.parameters())
        if not norm.isfinite():
            raise self._diverged(f"the weights are not finite after step {self.state.step}")
        return totals

    def _diverged(self, what: str) -> DivergenceError:
        last = self.run.checkpoint("last")
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been written yet"
        return DivergenceError(
            f"training diverged in epoch {self.state.epoch + 1}: {what}; {kept}. "
            f"Try a lower lr (now {self.config.lr}), warmup_epochs or clip_norm"
        )

    def _interrupted(self) -> Interrupted:
        state = self.state
        return Interrupted(
            f"stopped in epoch {state.epoch + 1} of {self.config.epochs} after batch {state.batch} of "
            f"{self.batches}; everything is saved in {self.run.path}"
        )

    def _tick(self) -> float:
        """Seconds since the last tick."""
        before, self.clock = self.clock, time.perf_counter()
        return self.clock - before


def _pieces(
    images: Tensor, targets: Tensor, extras: Mapping[str, Tensor], count: int
) -> list[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """The batch in `count` micro-batches (fewer when it has fewer examples)."""
    if count == 1:
        return [(images, targets, dict(extras))]
    size = -(-len(targets) // count)
    starts = range(0, len(targets), size)
    return [
        (images[i : i + size], targets[i : i + size], {k: v[i : i + size] for k, v in extras.items()}) for i in starts
    ]
