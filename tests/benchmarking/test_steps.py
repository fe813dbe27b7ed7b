"""The table of whole steps: what its settings say of the networks, and what its columns mean."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from multimix import models
from multimix.benchmarking import floor, methods, steps
from multimix.random import make_generator

SMALL = steps.Setting(model="smallnet-w4", image_size=16, classes=5, b=6, d=16, positions=4)


@pytest.mark.parametrize("setting", [*steps.CPU, *steps.CUDA], ids=lambda setting: setting.model)
def test_settings_know_the_features_of_their_networks(setting: steps.Setting) -> None:
    model = models.build(
        setting.model,
        num_classes=setting.classes,
        image_size=setting.image_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        generator=make_generator(0, "init"),
    ).eval()
    with torch.no_grad():
        features = model.dense(model.features(torch.rand(1, 3, setting.image_size, setting.image_size)))
    found = features.flatten(2).shape[1:] if features.ndim == 4 else features.mT.shape[1:]
    assert found == (setting.d, setting.positions)


def test_work_of_the_classifier_is_what_pytorch_counts() -> None:
    rows = torch.randn(7, 4, requires_grad=True)
    head = torch.nn.Linear(4, 3)
    with FlopCounterMode(display=False) as counter:
        head(rows).sum().backward()
    work = floor.linear(rows=7, d=4, c=3)
    assert work.products == counter.get_total_flops()
    assert work.bytes == 4 * 2 * (rows.numel() + head.weight.numel())


def test_dense_adds_the_classifier_at_all_positions_but_one() -> None:
    plain, dense = (steps.least_work(SMALL, dense, 10) for dense in (False, True))
    assert plain == floor.sampled_loss(positions=1, n=10, b=6, c=5)
    assert dense.products == floor.sampled_loss(positions=4, n=10, b=6, c=5).products + 6.0 * 18 * 16 * 5
    assert steps.least_work(SMALL, False, math.inf) == floor.Work(2.0 * 4 * 6 * 5, 0, 0, 0)


def test_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(chosen: list[str], config: object, **_: object) -> list[methods.Row]:
        rows = [methods.Row(name, 1.0, 0.8, 10.0, 3.0, relative_low=0.5, relative_high=2.0) for name in chosen]
        rows[0] = methods.Row("erm", 1.0, 1.0, 8.0, 3.0, relative_low=0.9, relative_high=1.1)
        rows[-1] = methods.Row(chosen[-1], None, None, None, None, "no memory")
        return rows

    monkeypatch.setattr(methods, "run", run)
    rates = floor.Rates(1e30, 1e30, 1e30, 1e3)
    erm, plain, dense, _, failed = steps.run([SMALL], n=(10, math.inf), device="cpu", rates=rates)
    assert erm.least is None
    assert plain.method == "multimix-alone(n=10)"
    assert plain.over_erm == (1.25, 0.5, 2.0)
    # 60 gamma variates at a thousand a second on top of 8 ms; and at four positions.
    assert plain.least == pytest.approx(1 + 60 / 8)
    assert dense.least == pytest.approx(1 + 4 * 60 / 8)
    assert (failed.method, failed.why_not, failed.milliseconds) == ("dense-multimix-alone(n=inf)", "no memory", None)


def test_real_steps() -> None:
    rows = list(steps.run([SMALL], n=(20,), device="cpu", rounds=3, seconds=0.05))
    assert [row.method for row in rows] == ["erm", "multimix-alone(n=20)", "dense-multimix-alone(n=20)"]
    for row in rows:
        assert row.milliseconds > 0
        if row.method != "erm":  # whose interval is that of a second copy
            assert row.over_erm.low <= row.over_erm.median <= row.over_erm.high
        assert row.least is None
        assert row.mib > 0
