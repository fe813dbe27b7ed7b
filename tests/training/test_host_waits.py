"""No step of training makes the host wait for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from tests.methods.accelerator import DEVICE, Remote
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from multimix import methods
from multimix.benchmarking import epoch, own_loop
from multimix.data import ArrayDataset, loader
from multimix.methods import Erm
from multimix.training import Config, loop
from multimix.training.devices import connect
from multimix.training.meters import Meters, Totals
from multimix.training.progress import Reporter

METHODS = ["erm", "input-mixup", "manifold-mixup", "multimix(n=20)", "dense-multimix(n=20)"]


def config(method: str, **changes) -> Config:
    return Config(data="cifar10", model="smallnet-w4", method=method, batch_size=8, lr=0.01, **changes)


@pytest.fixture
def without_the_end(monkeypatch) -> None:
    """An epoch that does not read its sums at the end, where the host has to wait."""
    monkeypatch.setattr(loop.Loop, "_finite_totals", lambda self: Totals())


@pytest.fixture
def losses_of_six_steps(accelerator, without_the_end, monkeypatch) -> Callable[[str], list[Tensor]]:
    def train(method: str) -> list[Tensor]:
        asked = config(method, accelerator="cpu")
        fabric = connect(asked)
        monkeypatch.setattr(type(fabric.strategy), "root_device", property(lambda self: DEVICE))
        monkeypatch.setattr(type(fabric.accelerator), "setup_device", lambda self, device: None)
        # A glance at the sums is an asynchronous copy, which the pretended accelerator cannot tell from another.
        monkeypatch.setattr(Reporter, "due", lambda self: False)
        losses, add = [], Meters.add

        def noting(self: Meters, loss: Tensor, *others, **shares) -> None:
            losses.append(loss)
            add(self, loss, *others, **shares)

        monkeypatch.setattr(Meters, "add", noting)
        with ExitStack() as stack:
            advance = own_loop.training_loop(fabric, asked, epoch.made_up(32, 10), stack)
            accelerator.clear()
            advance(6)
        return losses

    return train


@pytest.mark.parametrize("method", METHODS)
def test_steps_on_the_pretended_accelerator(method: str, losses_of_six_steps, accelerator) -> None:
    losses = losses_of_six_steps(method)
    assert len(losses) == 6
    assert all(isinstance(loss, Remote) for loss in losses)
    assert not accelerator


def test_a_wait_would_be_found(losses_of_six_steps, accelerator, monkeypatch) -> None:
    class Reading(Erm):
        def forward(self, *args, **options):
            out = super().forward(*args, **options)
            assert out.loss.item() > 0
            return out

    monkeypatch.setattr(methods, "parse", lambda name: Reading())
    losses_of_six_steps("erm")
    assert len(accelerator) == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_steps_on_a_cuda_device(method: str, compiled: bool, without_the_end) -> None:
    asked = config(
        method, accelerator="cuda", precision="bf16-mixed", channels_last=True, compile=compiled, clip_norm=1.0
    )
    fabric = connect(asked)
    fabric.launch()
    with ExitStack() as stack:
        advance = own_loop.training_loop(fabric, asked, epoch.made_up(800, 10), stack)
        advance(5)
        torch.cuda.set_sync_debug_mode("error")
        try:
            advance(50)
        finally:
            torch.cuda.set_sync_debug_mode("default")


class Launches(TorchDispatchMode):
    """Counts the operations that are not mere views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def test_an_accelerator_augments_many_batches_at_once(accelerator) -> None:
    images = torch.randint(256, (640, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = ArrayDataset(images, torch.arange(640) % 10)

    def launches(batch_size: int) -> int:
        batches = loader(dataset, batch_size=batch_size, train=True, augment="crop-flip", device=DEVICE)
        with Launches() as counted:
            assert len(list(batches.batches(0))) == 640 // batch_size
        return counted.counts.total()

    assert launches(16) == launches(640)
    assert not accelerator
