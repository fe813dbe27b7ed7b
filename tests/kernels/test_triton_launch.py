"""Launch parameters that fit, and one clear error where the Triton kernel cannot run. Nothing here needs Triton."""

import itertools
import math
import os
import types

import pytest
import torch

import multimix as mm
from multimix.kernels import triton_launch
from multimix.kernels.triton_launch import (
    MOST_EXAMPLES,
    MOST_EXAMPLES_CLOSED_FORM,
    choose,
    precision,
    tile,
    why_not,
    why_not_closed_form,
    width,
)


@pytest.mark.parametrize("precision", ["bf16", "tf32x3"])
@pytest.mark.parametrize("processors", [1, 108, 132])
@pytest.mark.parametrize("positions", [1, 49, 196])
def test_sizes_fit(positions, processors, precision) -> None:
    for n, b, c in itertools.product([1, 17, 1000, 10_000], [1, 7, 16, 100, 128, 256], [1, 2, 10, 100, 1000, 21_841]):
        launch = choose(positions=positions, n=n, b=b, c=c, precision=precision, processors=processors)
        for size in (launch.BN, launch.BB, launch.BC):
            assert size >= 16
            assert size & (size - 1) == 0
        assert b <= launch.BB
        assert 1 <= launch.splits <= math.ceil(n / launch.BN)
        assert launch.BN % launch.rows == 0
        # Weights that a thread draws at once: more would not fit its registers.
        assert launch.rows * launch.BB <= max(8 * 32 * launch.warps, launch.BB)
        assert (2**14 if precision == "bf16" else 2**13) >= launch.BN * launch.BB  # for the shared memory of an A100
        # Gradients kept apart take 64 MiB, or twice the gradient itself; however many mixtures there are.
        whole = 4 * positions * launch.BB * math.ceil(c / launch.BC) * launch.BC
        assert launch.splits * whole <= max(2**26, 2 * whole)


def test_a_grid_has_no_more_programs_than_cuda_allows() -> None:
    launch = choose(positions=1, n=10**8, b=2, c=2, precision="bf16", processors=132)
    assert 132 <= launch.splits < 2**16


def test_the_device_is_full_at_the_paper_s_sizes() -> None:
    for positions, c in itertools.product([49, 196], [100, 1000]):
        launch = choose(positions=positions, n=10_000, b=128, c=c, precision="bf16", processors=132)
        rounds = positions * launch.splits / (132 * (8 // launch.warps))
        assert rounds / math.ceil(rounds) > 0.7


@pytest.mark.skipif(
    torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="the kernel can run here"
)
@pytest.mark.parametrize("n", [1000, math.inf])
@pytest.mark.parametrize("criterion", [mm.MultiMix, mm.DenseMultiMix])
def test_without_a_gpu_forcing_the_kernel_is_one_clear_error(criterion, n) -> None:
    shape = (4, 3) if criterion is mm.MultiMix else (4, 5, 3)
    with pytest.raises(ValueError, match=r"implementation='triton' does not work for .*; use implementation='auto'"):
        criterion(n, implementation="triton")(torch.randn(shape), torch.arange(4) % 2, torch.nn.Linear(3, 2))


def test_tiles_hold_all_examples_of_the_largest_mini_batch() -> None:
    sizes = [1, 17, 128, 256, MOST_EXAMPLES_CLOSED_FORM], [1, 10, 100, 1000, 21_841], [False, True]
    for b, c, backward in itertools.product(*sizes):
        size = tile(b=b, c=c, backward=backward)
        assert b <= size.BB
        assert c <= width(c)
        assert width(c) % size.BC == 0
        # Logits that a thread holds: more would not fit its registers.
        assert (16 if backward and b <= 512 else 32) * 32 * size.warps >= size.BB * size.BC


def test_what_the_kernel_cannot_take_has_a_reason() -> None:
    assert "float64" in str(why_not(torch.zeros(1, 4, 3, dtype=torch.float64)))
    assert f"at most {MOST_EXAMPLES}" in str(why_not(torch.zeros(1, MOST_EXAMPLES + 1, 3)))
    most = MOST_EXAMPLES_CLOSED_FORM
    assert f"at most {most}" in str(why_not_closed_form(torch.zeros(1, most + 1, 3)))


def test_products_are_as_precise_as_asked_for() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert [precision(t) for t in (torch.float32, torch.bfloat16, torch.float16)] == ["tf32x3", "bf16", "tf32"]
        torch.set_float32_matmul_precision("high")
        assert precision(torch.float32) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_compiler_does_not_trace_into_the_search_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    triton_launch._has_compiler.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    properties = types.SimpleNamespace(shared_memory_per_block_optin=2**18)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def step(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if triton_launch._why_not_on(torch.device("cuda"), 2**17) is None else x

    assert torch.compile(step, fullgraph=True, backend="eager")(torch.zeros(())).item() == 1
