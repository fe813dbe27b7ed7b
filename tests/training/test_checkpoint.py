"""Checkpoints: atomic, verified, without code, with a fallback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from multimix import files as files_module
from multimix.methods import Erm
from multimix.models import SplitModel
from multimix.training import CheckpointError, Config
from multimix.training.averaging import MovingAverage
from multimix.training.checkpoint import load_checkpoint, load_latest, save_checkpoint, save_latest
from multimix.training.meters import Meters, Totals
from multimix.training.state import TrainingState
from multimix.training.step import TrainingStep


def accept(state):
    pass


def state(step):
    return {"step": step, "weights": torch.full((100,), float(step))}


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "a.pt", state(3))
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"], torch.full((100,), 3.0))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated_is_refused(tmp_path, keep):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        load_checkpoint(path)


def test_flipped_bit_in_a_weight_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1))
    content = bytearray(path.read_bytes())
    place = content.index(torch.ones(100).numpy().tobytes())
    content[place + 41] ^= 1
    path.write_bytes(bytes(content))
    # The premise: torch alone reads the damaged file without a word.
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], torch.ones(100))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_whichever_byte_is_flipped_it_is_refused_or_does_not_matter(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.ones(3)})
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            refused += 1
        else:
            assert loaded["step"] == 1
            assert torch.equal(loaded["weights"], torch.ones(3))
    assert refused > 30


def test_what_the_machine_refuses_to_read_is_not_taken_for_damage(tmp_path, monkeypatch):
    for step in (1, 2):
        save_latest(tmp_path, state(step))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError):
        load_latest(tmp_path, accept)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "multimix checkpoint 1", "x": Malicious()}, "a.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "executed").exists()


def test_foreign_file_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "a.pt")


class Some:
    """So many ranks, as rank `rank` of them sees it, each with the same sums."""

    def __init__(self, size: int = 1, rank: int = 0) -> None:
        self.size, self.rank = size, rank

    def gather(self, value):
        return [value] * self.size


class Scaler:
    """Of a precision with a state."""

    scale = 1.0

    def state_dict(self):
        return {"scale": self.scale}

    def load_state_dict(self, kept):
        self.scale = kept["scale"]


NUMBERS = ("epoch", "batch", "step", "seconds", "train_seconds", "other_seconds")


def training_state(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = SplitModel([nn.Flatten()], nn.BatchNorm1d(4), nn.Linear(4, 3))
    module = TrainingStep(model, Erm())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    found = TrainingState(module, optimizer, MovingAverage(model, 0.9), Scaler(), Meters(torch.device("cpu")))
    for step in range(2):
        module(torch.rand(6, 1, 2, 2), torch.arange(6) % 3)[0].backward()
        optimizer.step()
        found.average.update(model)
        found.meters.add(torch.tensor(seed + 2.0), torch.tensor(3), 6, step)
    return found


def test_a_checkpoint_brings_back_all_that_changes():
    config, first, second = Config(data="digits"), training_state(1), training_state(2)
    for value, name in enumerate(NUMBERS, start=3):
        setattr(first, name, value)
    first.history, first.precision.scale = [{"epoch": 1}], 8.0
    kept = first.capture(config, Some())
    second.restore(kept, Some())
    again = second.capture(config, Some())
    for name in (*NUMBERS, "history", "meters", "precision"):
        assert again[name] == kept[name], name
    for name in ("module", "average"):
        torch.testing.assert_close(again[name], kept[name], rtol=0, atol=0)
    torch.testing.assert_close(again["optimizer"]["state"], kept["optimizer"]["state"], rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 3])
def test_on_another_number_of_ranks_the_sums_are_counted_once(size):
    kept = training_state(1).capture(Config(data="digits"), Some(2))
    found = Totals()
    for rank in range(size):
        one = training_state(2)
        one.restore(kept, Some(size, rank))
        found = found + one.meters.totals()
    assert found == Totals(loss=12.0, batches=4.0, correct=12, clean=24)


def test_an_epoch_begins_with_sums_of_its_own_and_the_time_of_those_before():
    found = training_state(1)
    found.seconds, found.train_seconds, found.other_seconds, found.batch = 10.0, 2.0, 3.0, 4
    found.begin_epoch()
    assert [getattr(found, name) for name in NUMBERS] == [1, 0, 0, 15.0, 0.0, 0.0]
    assert found.meters.totals() == Totals()


def test_latest_falls_back_to_the_one_before(tmp_path):
    assert load_latest(tmp_path, accept) is None
    save_latest(tmp_path, state(1))
    save_latest(tmp_path, state(2))
    assert load_latest(tmp_path, accept)["step"] == 2
    (tmp_path / "last.pt").write_bytes(b"torn")
    with pytest.warns(UserWarning, match=r"last\.pt is truncated.*using previous\.pt instead"):
        assert load_latest(tmp_path, accept)["step"] == 1
    (tmp_path / "last.pt").unlink()
    with pytest.warns(UserWarning, match=r"no checkpoint .*last\.pt: using previous\.pt instead"):
        assert load_latest(tmp_path, accept)["step"] == 1
    (tmp_path / "previous.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        load_latest(tmp_path, accept)


def test_latest_skips_what_belongs_to_another_run(tmp_path):
    save_latest(tmp_path, state(1))
    save_latest(tmp_path, state(2))

    def check(found):
        if found["step"] == 2:
            raise ValueError("another run's")

    with pytest.warns(UserWarning, match="another run's: using previous"):
        assert load_latest(tmp_path, check)["step"] == 1


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("survives", [0, 1])
def test_kill_between_renames_leaves_a_good_checkpoint(tmp_path, monkeypatch, survives, links):
    save_latest(tmp_path, state(0))
    save_latest(tmp_path, state(1))
    calls = []

    def until_killed(real):
        def call(*arguments, **options):
            calls.append(arguments)
            if len(calls) > survives + 1:
                raise KeyboardInterrupt  # as good as a kill: nothing below runs
            return real(*arguments, **options)

        return call

    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", until_killed(os.link) if links else no_links)
    monkeypatch.setattr(os, "replace", until_killed(os.replace))
    with pytest.raises(KeyboardInterrupt):
        save_latest(tmp_path, state(2))
    monkeypatch.undo()
    assert load_latest(tmp_path, accept)["step"] == 2
    assert load_checkpoint(tmp_path / "previous.pt")["step"] == 1


def test_there_is_a_last_checkpoint_at_every_moment(tmp_path, monkeypatch):
    """For whoever evaluates a run while it is trained."""
    save_latest(tmp_path, state(1))
    real, seen = os.replace, []

    def replace(source, target):
        seen.append((tmp_path / "last.pt").exists())
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    save_latest(tmp_path, state(2))
    assert seen
    assert all(seen)
    assert [load_checkpoint(tmp_path / f"{name}.pt")["step"] for name in ("last", "previous")] == [2, 1]


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.pt: .*No space left"):
        save_checkpoint(path, state(2))
    assert load_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told_in_the_systems_words(tmp_path, monkeypatch):
    """torch.save reports what it expected at which position of its file."""
    monkeypatch.setattr(files_module, "open", lambda *_: open("/dev/full", "wb", buffering=0), raising=False)  # noqa: SIM115
    with pytest.raises(OSError, match=r"cannot write .*a\.pt: No space left on device$"):
        save_checkpoint(tmp_path / "a.pt", state(1))
    assert not list(tmp_path.iterdir())
