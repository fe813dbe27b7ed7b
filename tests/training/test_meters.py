"""Running sums against plain Python."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multimix.training.meters import Meters, Totals

entry = st.tuples(
    st.floats(0, 10, width=32), st.none() | st.integers(0, 8), st.integers(8, 9), st.integers(1, 5)
)  # loss, correct, examples, and into how many micro-batches its batch is cut


@given(st.lists(entry, min_size=1, max_size=20))
def test_sums(entries):
    meters = Meters(torch.device("cpu"))
    for step, (loss, correct, examples, parts) in enumerate(entries):
        right = None if correct is None else torch.tensor(correct)
        meters.add(torch.tensor(loss), right, examples, step, share=1 / parts)
    totals = meters.totals()
    clean = [(correct, examples) for _, correct, examples, _ in entries if correct is not None]
    weighted = sum(loss / parts for loss, _, _, parts in entries) / sum(1 / parts for *_, parts in entries)
    assert totals.mean_loss == pytest.approx(weighted, abs=1e-9)
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


def test_looking_changes_nothing():
    losses = torch.rand(50, generator=torch.Generator().manual_seed(1)) * 10
    looked, left_alone = Meters(torch.device("cpu")), Meters(torch.device("cpu"))
    for step, loss in enumerate(losses):
        for meters in (looked, left_alone):
            meters.add(loss, torch.tensor(3) if step % 2 else None, 4, step)
        if step % 7 == 0:
            looked.glance()
    assert looked.totals() == left_alone.totals()
    total = 0.0
    for loss in losses.tolist():
        total += loss
    assert looked.totals().loss == total


def test_glances_at_a_cuda_device_come_late_and_lose_nothing(monkeypatch):
    """Copies that are done when the test says so, in place of those of a device."""

    class Event:
        done = False

        def record(self) -> None:
            pass

        def query(self) -> bool:
            return Event.done

        def synchronize(self) -> None:
            Event.done = True

    monkeypatch.setattr(torch.cuda, "Event", Event)
    meters = Meters(torch.device("cuda"))
    for step in range(3):
        meters.add(torch.tensor(float(step)), torch.tensor(step), 2, step)
    assert meters.glance() is None  # begins to copy
    meters.add(torch.tensor(float("nan")), None, 2, 3)
    assert meters.glance() is None  # the copy is not there yet
    Event.done = True
    assert meters.glance() == Totals(loss=3.0, batches=3, correct=3, clean=6)
    Event.done = False
    assert meters.totals().bad_step == 3
    assert meters.totals().batches == 4


def test_no_graph_is_kept_until_somebody_looks():
    class Large:
        pass

    class Total(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.kept = Large()
            watched.append(weakref.ref(ctx.kept))
            return x.sum()

    meters, watched = Meters(torch.device("cpu")), []
    meters.add(Total.apply(torch.ones(3, requires_grad=True)), None, 4, 0)
    assert watched[0]() is None
    assert meters.totals().loss == 3


def test_half_precision_losses_do_not_round_the_counts():
    meters = Meters(torch.device("cpu"))
    meters.add(torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor(1001), 1024, 0)
    assert meters.totals() == Totals(loss=1.5, batches=1, correct=1001, clean=1024)
