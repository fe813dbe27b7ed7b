"""Two processes give what one gives with the same global batch, where that is promised."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multimix import data, models
from multimix.training import train
from multimix.training.setting import make_loaders

spec = importlib.util.spec_from_file_location("two_ranks", Path(__file__).with_name("two_ranks.py"))
two_ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(two_ranks)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """What two_ranks.py leaves when torchrun runs it on two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, two_ranks.__file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("name", "change"),
    [("erm", {}), ("accumulated", {"accumulate": 1}), ("gathered", {"method": two_ranks.GATHERING})],
)
def test_equals_one_process(out, name, change, tmp_path, monkeypatch):
    """Gradient, clipping, metrics; also in micro-batches, which one process takes in one piece here, and of mixtures
    of the examples of both."""
    monkeypatch.setattr(models, "build", two_ranks.without_batch_norm(models.build))
    alone = train(replace(two_ranks.CONFIG, **change), tmp_path / "alone")
    ours, theirs = load_file(alone / "model.safetensors"), load_file(out / name / "model.safetensors")
    for key in ours:
        torch.testing.assert_close(theirs[key], ours[key], atol=1e-5, rtol=0)
    for mine, other in zip(*(lines(run) for run in (alone, out / name)), strict=True):
        assert mine.keys() == other.keys()
        for key in mine.keys() - {"timing"}:
            assert other[key] == pytest.approx(mine[key], abs=1e-5), key


@pytest.mark.parametrize("rank", [0, 1])
def test_no_thread_of_the_processes_group_is_left(out, rank):
    """One that still held a tensor would abort the program's end."""
    assert not [name for name in json.loads((out / f"threads{rank}.json").read_text()) if "gloo" in name]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_interrupt_on_one_rank_stops_both_and_resumes_exactly(out):
    texts = [(out / f"interrupted{rank}").read_text() for rank in (0, 1)]
    assert texts[0] == texts[1]
    assert "stopped in epoch 1 of 2 after batch 2 of 6" in texts[0]
    for file in ("model.safetensors", "best.safetensors"):
        assert (out / "resumed" / file).read_bytes() == (out / "whole" / file).read_bytes()
    for mine, other in zip(lines(out / "whole"), lines(out / "resumed"), strict=True):
        assert {**mine, "timing": None} == {**other, "timing": None}


def test_ranks_draw_differently_and_repeatably_over_steps(out):
    draws = [[tuple(draw) for draw in json.loads((out / f"draws{rank}.json").read_text())] for rank in (0, 1)]
    assert len(draws[0]) == len(draws[1]) == 24  # by the method's generator and by the network's, at 12 steps
    assert len({*draws[0], *draws[1]}) == 48


@pytest.mark.parametrize(("name", "said"), [("error", "is not empty"), ("changed", "train_examples differ")])
def test_both_ranks_get_the_error_of_the_first(out, name, said):
    texts = [(out / f"{name}{rank}").read_text() for rank in (0, 1)]
    assert texts[0] == texts[1]
    assert said in texts[0]


def test_fewer_images_to_evaluate_on_than_processes_are_refused_before_training():
    splits = data.load("digits", per_class=6, val_per_class=1)
    with pytest.raises(ValueError, match="10 val images cannot be divided over 15 processes"):
        make_loaders(two_ranks.CONFIG, splits, device="cpu", rank=0, world_size=15)


def test_each_line_is_written_once(out):
    assert [line["epoch"] for line in lines(out / "erm")] == [1, 2]
    assert json.loads((out / "erm" / "environment.json").read_text())["hardware"]["processes"] == 2
