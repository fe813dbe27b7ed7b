"""The table of the sampler: times per weight, and both variants draw the weights of one batch."""

import pytest
import torch

from multimix.benchmarking import sampler


def test_times_are_per_weight(monkeypatch) -> None:
    def interleaved(variants, **_):
        return {name: [2.0, 4.0, 6.0] if name == "pytorch" else [1.0, 1.0, 2.0] for name in variants}

    monkeypatch.setattr(sampler, "interleaved", interleaved)
    (row,) = sampler.run(n=50, b=4, r=5, alphas=(1.5,))
    assert row.pytorch_ns == pytest.approx(4e9 / 1000)
    assert row.ours_ns == pytest.approx(1e9 / 1000)
    assert row.faster.median == 3


@pytest.mark.parametrize("alpha", [0.7, 1.0, (0.5, 2.0)])
def test_both_variants_draw_every_weight(monkeypatch, alpha) -> None:
    gammas, blocks = [], []
    pytorch_s, iterate = torch._standard_gamma, sampler.iter_weights

    def counted(shape, generator=None):
        gammas.append(shape)
        return pytorch_s(shape, generator=generator)

    def counting(*arguments):
        for where, rows, block in iterate(*arguments):
            blocks.append(block.numel())
            yield where, rows, block

    def interleaved(variants, **_):
        monkeypatch.setattr(torch, "_standard_gamma", counted)
        variants["pytorch"]()
        monkeypatch.undo()
        monkeypatch.setattr(sampler, "iter_weights", counting)
        variants["ours"]()
        return {name: [1.0] for name in variants}

    monkeypatch.setattr(sampler, "interleaved", interleaved)
    list(sampler.run(n=50, b=4, r=5, alphas=(alpha,), rounds=1))
    assert [shape.shape for shape in gammas] == [(5, 50, 4)]
    assert sum(blocks) == 1000
    low, high = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    assert (gammas[0] >= low).all()
    assert (gammas[0] <= high).all()
    assert (gammas[0] == gammas[0][..., :1]).all()  # one alpha for a row
