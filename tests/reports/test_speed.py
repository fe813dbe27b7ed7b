"""The measured speed of methods, with a clock that is told what a step costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.benchmarking.told_clock import tell

from multimix import recipes
from multimix.benchmarking import methods as timing
from multimix.methods import Erm, InputMixup, MultiMix
from multimix.reports import speed
from multimix.training import Config


def test_a_mixture_of_methods_costs_its_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {Erm: 1.0, InputMixup: 2.0, MultiMix: 10.0}
    tell(monkeypatch, lambda model, method, batch: cost[type(method)])
    config = replace(recipes.get("digits"), batch_size=60)
    methods = ["erm", "multimix(share=0.25)", "multimix-alone"]
    found, how = speed.measure_speed({m: replace(config, method=m) for m in methods}, device="cpu")
    assert found["erm"] == timing.Speed(60.0, 1.0)
    assert found["multimix(share=0.25)"] == timing.Speed(15.0, 0.25)  # 0.25 x 10 + 0.75 x 2 = 4
    assert found["multimix-alone"].relative == pytest.approx(0.1)
    assert "rounds of 25 steps" in how
    alone, _ = speed.measure_speed({"cutmix": replace(config, method="erm")}, device="cpu")
    assert alone["cutmix"].relative is None


def test_what_passes_through_the_network_at_a_time_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, lambda model, method, batch: 0.5 if len(batch.images) == 5 else 7.0)
    config = replace(recipes.get("digits"), method="erm", batch_size=60, accumulate=4, devices=3)
    found, how = speed.measure_speed({"erm": config}, device="cpu")
    assert found["erm"] == timing.Speed(10.0, 1.0)
    assert "one real micro-batch" in how


def test_real_steps_train_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    [(weight, step)] = speed.steps_of(replace(recipes.get("digits"), method="manifold-mixup"), "cpu")
    step()
    assert weight == 1.0
    assert torch.equal(torch.get_rng_state(), before)


def test_the_batch_that_is_timed_is_balanced_where_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for domain, count in (("art", 30), ("photo", 2), ("sketch", 1)):
        for label in ("left", "right"):
            (tmp_path / "data" / domain / label).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / "data" / domain / label / f"{k}.png")
    config = Config(
        data="domains", data_root=tmp_path / "data", held_out="sketch", balance_domains=True, model="smallnet-w4",
        method="erm", batch_size=8,
    )  # fmt: skip
    timed = []
    monkeypatch.setattr(speed, "steps", lambda fabric, config, model, method, batch: timed.append(batch))
    speed.steps_of(config, "cpu")
    assert timed[0].extras["domain"].bincount().tolist() == [4, 4]
