"""The speed of methods side by side."""

from types import SimpleNamespace

import pytest
import torch

from multimix.benchmarking import methods as timing
from multimix.training import Config


def config(**changes) -> Config:
    return Config(data="digits", model="smallnet-w4", batch_size=8, accelerator="cpu", **changes)


def test_rows_of_real_steps() -> None:
    before = torch.get_rng_state()
    size = {"num_classes": 5, "image_size": 16}
    chosen = ["erm", "multimix", "multimix-alone(n=20000)"]
    rows = {row.method: row for row in timing.run(chosen, config(), **size, rounds=3, seconds=0.1)}
    assert torch.equal(torch.get_rng_state(), before)
    assert rows["erm"].relative == 1.0
    for row in rows.values():
        assert row.images_per_second == pytest.approx(8000 / row.milliseconds)
        assert row.peak_mib > 0
    # Twenty thousand mixed examples dwarf a network of four small convolutions.
    assert rows["multimix-alone(n=20000)"].relative < 0.8


@pytest.mark.parametrize(("device", "expected"), [("cuda", (15, 6)), ("cpu", (4, 1))])
def test_a_first_step_that_compiles_does_not_count_on_a_gpu(monkeypatch, device, expected) -> None:
    now, costs = [0.0], iter([2.0, *[0.02] * 1000])

    def step() -> None:
        now[0] += next(costs)

    def timed(variants, *, rounds, **_) -> dict[str, list[float]]:
        for call in variants.values():
            call()
        return dict.fromkeys(variants, [1.0] * rounds)

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(timing, "synchronize", lambda device: None)
    monkeypatch.setattr(timing, "interleaved", timed)
    times = timing.expected_times({"erm": [(1.0, step)]}, rounds=15, device=device, seconds=2.0)["erm"]
    assert (len(times), 1 / times[0]) == expected  # a round takes one second, however many steps it has


def test_a_method_that_cannot_run_is_a_row_that_says_why() -> None:
    [row] = timing.run(["manifold-mixup(layers=9)"], config(), num_classes=5, image_size=16, rounds=2)
    assert row.images_per_second is None
    assert "layers must be at most" in row.why_not
    with pytest.raises(ValueError, match="unknown method"):
        list(timing.run(["nothing"], config(), num_classes=5, image_size=16))


def test_made_up_images_are_pixels() -> None:
    images, labels, extras = timing.made_up_batch(6, 3, 20, torch.device("cpu"))
    assert images.shape == (6, 3, 20, 20)
    assert 0 <= images.min() <= images.max() <= 1
    assert labels.max() < 3
    assert extras["domain"].shape == (6,)
