"""Fine-tuning that is stopped and continued, or cannot go on."""

from __future__ import annotations

import copy
import math
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.detection.squares import write_squares
from torch import nn

from multimix import detection, models
from multimix.data.boxes import read_boxes
from multimix.detection import fine_tuning
from multimix.detection.fine_tuning import Progress
from multimix.random import initialising, make_generator
from multimix.training import Interrupted
from multimix.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

NAMES = ["blue", "red"]


@pytest.fixture
def images(tmp_path: Path) -> detection.DetectionImages:
    folder = write_squares(tmp_path / "squares", train=7, test=2)
    train = read_boxes(folder, purpose="training").images
    return detection.DetectionImages(train, NAMES, augment="ssd", size=48)


def detector(kind: str = "ssd") -> nn.Module:
    with initialising(make_generator(0, "test")):
        classifier = models.build("smallnet-w8", num_classes=5, image_size=32, generator=make_generator(0))
        make = detection.ssd if kind == "ssd" else detection.faster_rcnn
        return make(classifier, num_classes=3, image_size=48)


def settings(**changes: Any) -> detection.FineTuning:
    return detection.FineTuning(**{"epochs": 3, "batch_size": 2, "lr": 0.005, **changes})


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_stopped_fine_tuning_goes_on_as_if_it_had_not_been(
    stop: int, images: detection.DetectionImages, tmp_path: Path
) -> None:
    whole = detector()
    state = torch.get_rng_state()
    losses = detection.fine_tune(whole, images, settings())
    assert torch.equal(torch.get_rng_state(), state)
    seen: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    file = tmp_path / "deep" / "detector.pt"
    with pytest.raises(Interrupted, match=rf"stopped after step {stop} of 9"):
        detection.fine_tune(detector(), images, settings(), checkpoint=file, progress=interrupt)
    continued = detector()
    assert detection.fine_tune(continued, images, settings(), checkpoint=file, progress=seen.append) == losses
    assert [one.epoch for one in seen] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name
    # What has ended is not trained again.
    assert detection.fine_tune(detector(), images, settings(), checkpoint=file, progress=seen.append) == losses
    assert len(seen) == 9


@pytest.mark.parametrize(("steps", "warmup"), [(120, 12), (12_000, 1000), (7, 1)])
def test_the_learning_rate_is_that_of_torchs_schedulers(steps: int, warmup: int) -> None:
    """The "1x" schedule: of 12 epochs, drops to a tenth after 8 and 11."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.02)
    drops = [math.ceil(steps * 8 / 12), math.ceil(steps * 11 / 12)]
    schedulers = [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, gamma=0.1),
        torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1),
    ]
    chosen = settings(lr=0.02)
    for step in range(steps):
        assert chosen.learning_rate(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


class Pull(nn.Module):
    """A detector of one weight, which is its loss too; notes the images that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.shown: list[list[int]] = []

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        self.shown.append([int(image) for image in images])
        return {"loss": self.weight.sum()}


class Numbers:
    """Seven images that are their own number."""

    def __len__(self) -> int:
        return 7

    def batches(self, epoch: int, shares: Sequence[torch.Tensor]) -> Iterator[tuple[list[torch.Tensor], list[Any]]]:
        for share in shares:
            yield list(share), [{} for _ in share]


def test_steps_are_those_of_sgd_with_decay_over_epochs_of_their_own_order() -> None:
    pull, chosen = Pull(), settings(epochs=4, lr=0.1, weight_decay=0.05)
    found = detection.fine_tune(pull, Numbers(), chosen)  # type: ignore[arg-type]
    weight, momentum, losses = 2.0, 0.0, []
    for step in range(12):
        losses.append(weight)
        momentum = 0.9 * momentum + 1 + 0.05 * weight
        weight -= chosen.learning_rate(step, 12) * momentum
    assert found == pytest.approx([sum(losses[k : k + 3]) / 3 for k in range(0, 12, 3)])
    assert pull.weight.item() == pytest.approx(weight)
    epochs = [[image for batch in pull.shown[k : k + 3] for image in batch] for k in range(0, 12, 3)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_faster_rcnn_samples_from_its_own_seed(images: detection.DetectionImages) -> None:
    found, made = [], detector("faster-rcnn")
    made.roi_heads.fg_bg_sampler.batch_size_per_image = 16  # of some hundred proposals
    for seed in (0, 0, 1):
        one = copy.deepcopy(made)
        torch.rand(1)
        found.append(detection.fine_tune(one, images, settings(epochs=1, batch_size=7, seed=seed)))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_every_step_draws_anew(images: detection.DetectionImages, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, seed = [], fine_tuning.seed_global_state

    def noted(value: int, device: torch.device) -> None:
        seeds.append(value)
        seed(value, device)

    monkeypatch.setattr(fine_tuning, "seed_global_state", noted)
    detection.fine_tune(detector(), images, settings(epochs=2))
    assert len(seeds) == len(set(seeds)) == 6


def test_a_loss_that_is_not_finite_ends_it(images: detection.DetectionImages) -> None:
    with pytest.raises(ValueError, match=r"no longer finite \(.*classification.*\): use a lower learning rate"):
        detection.fine_tune(detector(), images, settings(lr=1e20, epochs=20))


def test_checkpoints_that_do_not_fit_are_named(images: detection.DetectionImages, tmp_path: Path) -> None:
    file = tmp_path / "detector.pt"
    detection.fine_tune(detector(), images, settings(epochs=1), checkpoint=file)
    with pytest.raises(CheckpointError, match=r"detector\.pt is of another fine-tuning: remove the file"):
        detection.fine_tune(detector(), images, settings(lr=0.1), checkpoint=file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"detector\.pt is truncated.*remove the file to start anew"):
        detection.fine_tune(detector(), images, settings(epochs=1), checkpoint=file)


def test_a_disk_that_cannot_be_written_stops_nothing(images: detection.DetectionImages, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = detection.fine_tune(
            detector(), images, settings(epochs=1), checkpoint=tmp_path / "file" / "detector.pt"
        )
    assert len(losses) == 1
    assert any("cannot be saved for later" in str(one.message) for one in caught)


def test_a_disk_that_has_room_again_is_written_to(
    images: detection.DetectionImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []

    def save(path: Path, content: dict[str, object]) -> None:
        writes.append(len(writes))
        if len(writes) == 1:
            raise OSError(28, "No space left on device")
        save_checkpoint(path, content)

    monkeypatch.setattr(fine_tuning, "save_checkpoint", save)
    monkeypatch.setattr(fine_tuning, "SAVE_EVERY", 0.0)
    with pytest.warns(UserWarning, match="cannot be saved for later"):
        detection.fine_tune(detector(), images, settings(epochs=2), checkpoint=tmp_path / "detector.pt")
    assert len(writes) > 1
    assert load_checkpoint(tmp_path / "detector.pt")["state"]["step"] == len(writes)


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"weight_decay": -1.0}]
)
def test_values_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"epochs and batch_size must be at least 1, lr above 0"):
        settings(**change)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs images to train on, got none"):
        detection.fine_tune(detector(), detection.DetectionImages([], NAMES), settings())
