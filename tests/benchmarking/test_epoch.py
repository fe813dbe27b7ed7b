"""Epochs a minute: that the loops do the work they are timed for, on the same images."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as nnf

from multimix.benchmarking import epoch, own_loop, peers
from multimix.training import Config
from multimix.training.devices import connect

CPU = torch.device("cpu")


def config(**changes) -> Config:
    fields = {"model": "smallnet-w4", "batch_size": 8, "workers": 0, "lr": 1e-3, "schedule": "constant"}
    return Config(data="cifar10", accelerator="cpu", **{**fields, **changes})


def test_rows_of_real_steps() -> None:
    before = torch.get_rng_state()
    rows = list(epoch.run(config(), epoch.made_up(44, 10), chosen=["erm", "input-mixup"], steps=2, rounds=2))
    assert torch.equal(torch.get_rng_state(), before)
    measured = [(row.loop, row.method) for row in rows if row.loop != "mixup package"]
    own = ["ours", "network alone"]
    assert measured == [(loop, "erm") for loop in [*own, "DataLoader"]] + [
        (loop, "input-mixup") for loop in [*own, "timm"]
    ]
    for row in rows:
        # The last four images fill no batch.
        assert row.epochs_per_minute == pytest.approx(60 * row.images_per_second / 40)
        assert (row.ours_is_faster is None) == (row.loop == "ours")
        if row.ours_is_faster is not None:
            assert 0 < row.ours_is_faster.low <= row.ours_is_faster.median <= row.ours_is_faster.high


def test_a_missing_package_is_said(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mixup", None)
    said: list[str] = []
    rows = epoch.run(
        config(),
        epoch.made_up(8, 10),
        loops=["mixup package"],
        chosen=["input-mixup"],
        steps=1,
        rounds=1,
        say=said.append,
    )
    assert list(rows) == []
    assert said == ["mixup package: this needs the package mixup, which is not installed: pip install mixup"]


def test_turns_go_on_through_the_epochs_of_the_loader(monkeypatch) -> None:
    """Ten steps in turns are ten steps: the same weights as in one turn, and as many updates."""
    weights = []
    for turns in ([10], [3, 1, 6]):
        made = []
        monkeypatch.setattr(
            own_loop, "_step", lambda *args, make=own_loop._step, made=made: made.append(make(*args)) or made[0]
        )
        fabric = connect(config())
        with ExitStack() as stack:
            advance = own_loop.training_loop(fabric, config(augment="crop-flip"), epoch.made_up(32, 10), stack)
            for steps in turns:
                advance(steps)
        monkeypatch.undo()
        [step] = made
        model = step.model
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert {int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")} == {10}
    assert torch.equal(*weights)


def seen_by(loop, monkeypatch, **changes) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The images that the network of a loop of others sees in an epoch, and the labels of its loss."""
    images, labels = [], []
    model = torch.nn.Linear(1, 10)

    def network(x: torch.Tensor) -> torch.Tensor:
        images.append(x.clone())
        return model(x.mean(dim=(1, 2, 3))[:, None])

    network.parameters = model.parameters
    cross_entropy = nnf.cross_entropy
    monkeypatch.setattr(peers, "_model", lambda *args: network)
    monkeypatch.setattr(
        peers,
        "nnf",
        SimpleNamespace(one_hot=nnf.one_hot, cross_entropy=lambda x, y: labels.append(y) or cross_entropy(x, y)),
    )
    loop(config(**changes), epoch.made_up(16, 10), CPU)(2)
    return list(zip(images, labels, strict=True))


def test_the_dataloader_loop_sees_every_image_once_normalised(monkeypatch) -> None:
    splits = epoch.made_up(16, 10)
    torch.manual_seed(0)
    seen = seen_by(peers.stock, monkeypatch)
    assert torch.cat([y for _, y in seen]).sort().values.equal(splits.train.labels.sort().values)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (splits.mean, splits.std))
    inside = slice(8, 24)
    for x, _ in seen:
        pixels = (x * std + mean) * 255
        assert torch.allclose(pixels, pixels.round(), atol=1e-3)
        for picture in pixels.round().to(torch.uint8):
            # Shifted by at most four pixels and perhaps mirrored, the middle is in one of the images.
            middle = picture[:, inside, inside]
            windows = torch.cat([splits.train.images, splits.train.images.flip(3)])
            places = windows.unfold(2, 16, 1).unfold(3, 16, 1)
            assert (places == middle[None, :, None, None]).all(dim=(1, 4, 5)).any()


def test_pictures_are_the_images() -> None:
    train = epoch.made_up(4, 10).train
    pictures = peers.Pictures(train)
    picture, label = pictures[2]
    assert np.array_equal(np.asarray(picture), train.images[2].permute(1, 2, 0).numpy())
    assert (label, len(pictures)) == (int(train.labels[2]), 4)
