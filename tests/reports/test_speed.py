"""The measured speed of methods, with a clock that is told what a step costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.benchmarking.told_clock import tell, tell_all

from multimix import recipes
from multimix.benchmarking import methods as timing
from multimix.data import Batch
from multimix.methods import CutMix, Erm, InputMixup, MultiMix
from multimix.reports import speed
from multimix.reports.plan import Speed
from multimix.training import Config


@pytest.fixture(autouse=True)
def without_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> float:
        raise AssertionError("nobody reads it, and it takes further steps")

    monkeypatch.setattr(timing, "peak_memory", refused)


def measured(config: Config, chosen: list[str]) -> tuple[dict[str, Speed], str]:
    """All speeds side by side, and how the page says they came about."""
    found = speed.side_by_side(dict(speed.measure_speed(config, chosen, device="cpu")))
    return found, speed.how_measured(config, found, "cpu")


def test_a_mixture_of_methods_costs_its_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {Erm: 1.0, InputMixup: 2.0, MultiMix: 10.0}
    tell(monkeypatch, lambda model, method, batch: cost[type(method)])
    config = replace(recipes.get("digits"), batch_size=60)
    methods = ["erm", "multimix(share=0.25)", "multimix-alone"]
    found, how = measured(config, methods)
    assert found["erm"] == Speed(60.0, 1.0, 9)
    assert found["multimix(share=0.25)"] == Speed(15.0, 0.25, 9)  # 0.25 x 10 + 0.75 x 2 = 4
    assert found["multimix-alone"].relative == pytest.approx(0.1)
    assert "one real batch" in how
    alone, _ = measured(config, ["multimix-alone"])
    assert alone["multimix-alone"] == found["multimix-alone"]


def test_what_passes_through_the_network_at_a_time_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, lambda model, method, batch: 0.5 if len(batch.images) == 5 else 7.0)
    config = replace(recipes.get("digits"), batch_size=60, accumulate=4, devices=3)
    found, how = measured(config, ["erm"])
    assert found["erm"] == Speed(10.0, 1.0, 9)
    assert "one real micro-batch" in how


def test_a_method_that_cannot_be_timed_does_not_cost_the_others_their_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(model: object, method: object, batch: object) -> float:
        if isinstance(method, InputMixup):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    tell(monkeypatch, cost)
    with pytest.warns(UserWarning, match="the training speed of input-mixup is not measured: CUDA out of memory"):
        found, _ = measured(recipes.get("digits"), ["erm", "input-mixup", "cutmix"])
    assert list(found) == ["erm", "cutmix"]


def test_steps_are_real_timed_as_in_training_and_leave_the_global_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    seen: list[bool] = []
    forward = Erm.forward

    def noted(self, *args, **kwargs):
        seen.append(torch.backends.cudnn.benchmark)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Erm, "forward", noted)
    before = torch.get_rng_state()
    found, _ = measured(recipes.get("digits"), ["manifold-mixup"])
    assert found["manifold-mixup"].images_per_second > 0
    assert set(seen) == {True}  # cuDNN looks for the fastest kernels, as in training
    assert not torch.backends.cudnn.benchmark
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
    timed: list[Batch] = []
    tell(monkeypatch, lambda model, method, batch: timed.append(batch) or 1.0)
    measured(config, ["erm"])
    assert timed[0].extras["domain"].bincount().tolist() == [4, 4]


def test_images_per_second_agree_with_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [timing.Row("erm", 100.0, 1.0, 10.0, 1.0), timing.Row("cutmix", 130.0, 0.9, 8.0, 1.0)]  # of a quieter moment
    monkeypatch.setattr(speed, "beside_erm", lambda *_, **__: iter(rows))
    found, how = measured(recipes.get("digits"), ["erm", "cutmix"])
    assert found == {"erm": Speed(100.0, 1.0), "cutmix": Speed(90.0, 0.9)}
    assert "images per second are ERM's times the ratio" in how
    monkeypatch.setattr(speed, "beside_erm", lambda *_, **__: iter(rows[1:]))
    assert measured(recipes.get("digits"), ["cutmix"])[0] == {"cutmix": Speed(130.0, 0.9)}


def test_slow_steps_get_fewer_rounds_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {Erm: 1.0, InputMixup: 3.0, CutMix: 40.0}
    passed = tell_all(monkeypatch, lambda model, method, batch: cost[type(method)])
    told: list[tuple[str, float | None]] = []
    config = recipes.get("digits")
    chosen = ["erm", "input-mixup", "cutmix"]  # 40 s each
    found = dict(speed.measure_speed(config, chosen, device="cpu", tell=lambda *told_now: told.append(told_now)))
    assert {method: row.rounds for method, row in found.items()} == {"erm": 5, "input-mixup": 3, "cutmix": 1}
    assert found["cutmix"].relative == pytest.approx(1 / 40)
    assert sum(passed) == 6 * 2.0 + 4 * 4.0 + 2 * 41.0
    assert [left for method, left in told if method == "cutmix"] == [None, 41.0, 20.5, 0.0]
    assert [left for method, left in told if method == "input-mixup"] == [None, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0, 0.0]
    how = speed.how_measured(config, found, "cpu")
    assert "in turns with ERM: medians of 1 to 5 rounds, so few because steps are slow, which leaves" in how


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([9, 9], "ERM: medians of 9 rounds;"),
        ([3, 9, 5], "ERM: medians of 3 to 9 rounds;"),
        ([2], "ERM: medians of 2 rounds, so few because"),
        ([1, 1], "ERM: one round, so few because"),
        ([None], "ERM: medians of up to 9 rounds;"),
    ],
)
def test_the_number_of_rounds_in_words(rounds: list[int | None], said: str) -> None:
    speeds = {str(k): Speed(1.0, 1.0, count) for k, count in enumerate(rounds)}
    assert said in speed.how_measured(recipes.get("digits"), speeds, "cpu")


def test_speeds_stand_side_by_side_where_machine_and_steps_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipes.get("digits")
    setting = speed.speed_setting(config, "cpu")
    assert speed.speed_setting(replace(config, epochs=7, workers=0, compile=True), "cpu") == setting
    for other in (replace(config, channels_last=True), replace(config, deterministic=True)):
        assert speed.speed_setting(other, "cpu") != setting
    assert speed.speed_setting(config, "cuda") != setting
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert speed.speed_setting(config, "cpu") != setting
