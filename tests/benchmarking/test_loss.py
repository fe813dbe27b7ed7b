"""The benchmark compares like with like: the direct form is the same loss, and memory is really counted."""

from collections.abc import Callable

import pytest
import torch

import multimix as mm
from multimix.benchmarking import floor, loss
from multimix.benchmarking.loss import chunked_loss, direct_dense_loss, direct_loss, run
from multimix.benchmarking.measure import Ratio


def test_direct_forms_estimate_the_same_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 4, bias=False)
    head.weight.data.normal_(0, 0.5, generator=generator)
    # Few examples, attended to more or less, so that it matters that positions are weighted.
    labels = torch.randint(4, (4,), generator=generator)
    features = torch.randn(4, 3, 6, generator=generator).relu()
    with torch.no_grad():
        plain = direct_loss(features[:, 0], labels, head, 40_000, generator)
        dense = direct_dense_loss(features, labels, head, 40_000, generator)
        ours = mm.MultiMix(40_000)(features[:, 0], labels, head, generator=generator)
        assert torch.allclose(plain, ours, rtol=0, atol=1e-2)
        ours = mm.DenseMultiMix(40_000)(features, labels, head, generator=generator)
        assert torch.allclose(dense, ours, rtol=0, atol=1e-2)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="PyTorch before 2.13")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_form_is_the_direct_one(dtype: torch.dtype) -> None:
    head, labels, results = torch.nn.Linear(6, 4), torch.arange(5) % 4, []
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    for form in (direct_loss, chunked_loss):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = form(z, labels, head, 100, torch.Generator().manual_seed(1))
        results.append((value, *torch.autograd.grad(value, [z, head.weight, head.bias])))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours.float(), theirs.float(), rtol=1e-5 if dtype == torch.float32 else 0.1, atol=2e-3)


def test_rows_of_one_size_compare_with_each_other() -> None:
    before = torch.get_rng_state()
    rates = {"float32": floor.Rates(1e9, 1e9, 1e9, 1e6, one_unit=True)}
    rows = run(n=50, b=8, sizes=((16, 5, 4),), rounds=3, compiled=False, rates=rates)
    direct, ours = list(rows)
    assert (direct.variant, ours.variant) == ("direct", "ours")
    assert (ours.d, ours.c, ours.r, ours.n, ours.b, ours.precision) == (16, 5, 4, 50, 8, "float32")
    assert direct.faster_than_direct == Ratio(1.0, 1.0, 1.0)
    assert ours.faster_than_direct.low <= ours.faster_than_direct.median <= ours.faster_than_direct.high
    assert ours.faster_than_compiled is None
    # 50 x 8 gamma variates at 4 positions, and so on, at the rates above.
    least = (4 * 50 * 4 * 8 * 5 + 6 * 32 * 16 * 5 + 4 * 50 * 5) / 1e9 + 4 * 50 * 8 / 1e6
    assert ours.over_floor == pytest.approx(ours.milliseconds / 1e3 / least)
    assert direct.mib > 0
    assert ours.mib > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("budget", "rounds"), [(0.0, 2), (1e9, 3)])
def test_rounds_of_a_large_size_fit_their_budget(monkeypatch: pytest.MonkeyPatch, budget: float, rounds: int) -> None:
    calls = []

    def counted(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return direct_loss(*arguments)

    monkeypatch.setattr(loss, "LARGE", 0)
    monkeypatch.setattr(loss, "LARGE_SECONDS", budget)
    monkeypatch.setattr(loss, "direct_loss", counted)
    direct, *_, ours = run(n=50, b=8, sizes=((16, 5, 1),), rounds=15, compiled=False)
    assert len(calls) == rounds
    assert ours.faster_than_direct.low <= ours.faster_than_direct.median <= ours.faster_than_direct.high
    assert direct.mib > 0


def test_bfloat16_is_the_same_loss_under_autocast() -> None:
    rows = list(run(n=20, b=8, sizes=((16, 5, 1),), rounds=3, compiled=False, precisions=("bfloat16", "float32")))
    half = len(rows) // 2
    assert [row.precision for row in rows] == ["bfloat16"] * half + ["float32"] * half
    assert [row.variant for row in rows[half:]] == [row.variant for row in rows[:half]]
    assert not any(row.why_not for row in rows)


def test_where_nothing_compiles_the_row_says_why_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Callable[..., None]:
        def compiled(*_: object) -> None:
            raise RuntimeError("InvalidCxxCompiler: no working compiler\nand a long trace")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    rows = {row.variant: row for row in run(n=5, b=4, sizes=((6, 3, 1),), rounds=3)}
    assert rows["direct, compiled"].why_not == "InvalidCxxCompiler: no working compiler"
    assert rows["ours"].milliseconds > 0
    assert rows["ours"].faster_than_compiled is None


def test_compiled_form_is_compared_and_draws_leave_the_global_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler itself takes half a minute; what is compiled runs eagerly here, and must then draw globally.
    generators = []

    def eager(function: Callable[..., torch.Tensor], **_: object) -> Callable[..., torch.Tensor]:
        def compiled(*arguments: object) -> torch.Tensor:
            generators.append(arguments[-1])
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", eager)
    before = torch.get_rng_state()
    rows = {row.variant: row for row in run(n=5, b=4, sizes=((6, 3, 2),), rounds=3)}
    assert set(generators) == {None}
    assert rows["direct, compiled"].faster_than_compiled == Ratio(1.0, 1.0, 1.0)
    assert rows["direct"].faster_than_compiled.median > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_direct_form_compiles_whole() -> None:
    rows = {row.variant: row for row in run(n=20, b=4, sizes=((6, 3, 1), (6, 3, 2)), rounds=3)}
    assert rows["direct, compiled"].why_not == ""
    assert rows["direct, compiled"].milliseconds > 0
