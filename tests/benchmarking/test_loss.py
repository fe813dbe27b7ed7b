"""The benchmark compares like with like: the direct form is the same loss, and memory is really counted."""

import torch

import multimix as mm
from multimix.benchmarking.loss import direct_dense_loss, direct_loss, run
from multimix.benchmarking.measure import median_ratio, peak_memory


def test_direct_forms_estimate_the_same_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 4).double()
    labels = torch.randint(4, (9,), generator=generator)
    features = torch.rand(9, 3, 6, generator=generator, dtype=torch.double)
    with torch.no_grad():
        plain = direct_loss(features[:, 0].float(), labels, head.float(), 40_000, generator)
        dense = direct_dense_loss(features.float(), labels, head, 40_000, generator)
        assert torch.allclose(plain, mm.MultiMix(40_000)(features[:, 0].float(), labels, head), atol=2e-3)
        assert torch.allclose(dense, mm.DenseMultiMix(40_000)(features.float(), labels, head), atol=2e-3)


def test_rows_are_produced() -> None:
    (row,) = run(n=50, b=8, sizes=((16, 5, 4),), rounds=3)
    assert (row.d, row.c, row.r, row.n, row.b) == (16, 5, 4, 50, 8)
    assert row.direct_ms > 0
    assert row.ours_ms > 0
    assert row.direct_mib > 0


def test_peak_memory_counts_what_is_allocated_at_once() -> None:
    def call() -> None:
        for _ in range(3):  # one megabyte at a time, four bytes each
            torch.empty(2**18).fill_(1)

    assert 2**20 <= peak_memory(call, device="cpu") < 1.2 * 2**20


def test_ratio_is_taken_within_rounds() -> None:
    assert median_ratio([2.0, 20.0, 4.0], [1.0, 10.0, 1.0]) == 2.0
