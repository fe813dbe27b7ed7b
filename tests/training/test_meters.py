"""Running sums against plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multimix.training.meters import Meters, Totals

entry = st.tuples(
    st.floats(0, 10, width=32), st.none() | st.integers(0, 8), st.integers(8, 9)
)  # loss, correct, examples


@given(st.lists(entry, min_size=1, max_size=20))
def test_sums(entries):
    meters = Meters(torch.device("cpu"))
    for step, (loss, correct, examples) in enumerate(entries):
        meters.add(torch.tensor(loss), None if correct is None else torch.tensor(correct), examples, step)
    totals = meters.totals()
    clean = [(correct, examples) for _, correct, examples in entries if correct is not None]
    assert totals.mean_loss == pytest.approx(sum(loss for loss, _, _ in entries) / len(entries), abs=1e-9)
    if clean:
        assert totals.accuracy == sum(c for c, _ in clean) / sum(e for _, e in clean)
    else:
        assert totals.accuracy is None
    assert totals.bad_step == -1


def test_first_bad_step_is_remembered():
    meters = Meters(torch.device("cpu"))
    for step, loss in enumerate([1.0, 2.0, float("inf"), 1.0, float("nan")]):
        meters.add(torch.tensor(loss), None, 4, step)
    assert meters.totals().bad_step == 2
    assert (Totals(bad_step=7) + Totals(bad_step=3) + Totals()).bad_step == 3


def test_restored_sums_go_on_bit_for_bit():
    losses = torch.rand(40, generator=torch.Generator().manual_seed(0))
    whole, first = Meters(torch.device("cpu")), Meters(torch.device("cpu"))
    for step, loss in enumerate(losses):
        whole.add(loss, torch.tensor(step % 3), 4, step)
    for step, loss in enumerate(losses[:13]):
        first.add(loss, torch.tensor(step % 3), 4, step)
    second = Meters(torch.device("cpu"))
    second.restore(first.totals())
    for step, loss in enumerate(losses[13:], start=13):
        second.add(loss, torch.tensor(step % 3), 4, step)
    assert second.totals() == whole.totals()
