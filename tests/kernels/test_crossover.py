"""implementation="auto": the kernel where the table says so and the device can run it. Nothing here needs a GPU."""

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from multimix.benchmarking.record import Record
from multimix.kernels import crossover, triton_launch
from multimix.kernels.crossover import closed_form_kernel_is_faster, kernel_is_faster

LEAST = 1000 * 49 * 128 * 100.0


@pytest.fixture
def gpu(monkeypatch) -> SimpleNamespace:
    """A device whose properties can be set; the table knows compute capability 9.0 alone."""
    device = SimpleNamespace(capability=(9, 0), shared_memory_per_block_optin=227 * 1024)
    monkeypatch.setattr(crossover, "MEASURED", {(9, 0, "bf16"): LEAST})
    monkeypatch.setattr(crossover, "MEASURED_CLOSED_FORM", {(9, 0, "bfloat16"): LEAST / 1000})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: device.capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: device)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(triton_launch, "_INSTALLED", True)
    monkeypatch.setattr(triton_launch, "_has_compiler", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return device


def logits(r: int, b: int, c: int, *, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> SimpleNamespace:
    """What a tensor tells about itself; one on a GPU cannot be made without."""
    return SimpleNamespace(shape=(r, b, c), dtype=dtype, device=torch.device(device), numel=lambda: r * b * c)


def test_kernel_from_the_measured_size_on(gpu) -> None:
    for r, n, c, faster in ((49, 1000, 100, True), (49, 999, 100, False), (49, 1000, 99, False), (49, 100, 1000, True)):
        assert kernel_is_faster(logits(r, 128, c), n) is faster


def test_not_on_a_device_that_was_not_measured(gpu) -> None:
    for capability in ((8, 0), (9, 1), (10, 0)):
        gpu.capability = capability
        assert not kernel_is_faster(logits(196, 128, 1000), 10_000)


def test_not_in_a_precision_or_with_a_mini_batch_that_was_not_measured(gpu) -> None:
    assert kernel_is_faster(logits(196, 128, 1000), 10_000)
    assert not kernel_is_faster(logits(196, 128, 1000, dtype=torch.float32), 10_000)
    assert not kernel_is_faster(logits(196, 129, 1000), 10_000)
    assert not closed_form_kernel_is_faster(logits(196, 128, 1000, dtype=torch.float16))
    assert not closed_form_kernel_is_faster(logits(196, 129, 1000))


def test_not_where_the_kernel_cannot_run_whatever_the_table_says(gpu, monkeypatch) -> None:
    assert kernel_is_faster(logits(196, 128, 1000), 10_000)
    assert not kernel_is_faster(logits(196, 128, 1000, dtype=torch.float64), 10_000)
    assert not kernel_is_faster(logits(196, triton_launch.MOST_EXAMPLES + 1, 1000), 10_000)
    gpu.shared_memory_per_block_optin = 48 * 1024
    assert not kernel_is_faster(logits(196, 128, 1000), 10_000)
    gpu.shared_memory_per_block_optin = 227 * 1024
    monkeypatch.setattr(triton_launch, "_has_compiler", lambda: False)
    assert "without a C compiler" in (triton_launch.why_not(logits(196, 128, 1000)) or "")
    assert not kernel_is_faster(logits(196, 128, 1000), 10_000)
    monkeypatch.setattr(triton_launch, "_has_compiler", lambda: True)
    monkeypatch.setattr(triton_launch, "_INSTALLED", False)
    assert not kernel_is_faster(logits(196, 128, 1000), 10_000)


def test_kernels_need_compute_capability_8_and_take_the_most_examples(gpu) -> None:
    most = ((triton_launch.why_not, triton_launch.MOST_EXAMPLES),
            (triton_launch.why_not_closed_form, triton_launch.MOST_EXAMPLES_CLOSED_FORM))  # fmt: skip
    for why_not, b in most:
        for capability in ((7, 0), (7, 5), (8, 0), (12, 0)):
            gpu.capability = capability
            assert (why_not(logits(1, b, 3)) is None) is (capability >= (8, 0))


def test_not_on_the_cpu_and_not_without_measurements(gpu, monkeypatch) -> None:
    assert not kernel_is_faster(logits(196, 128, 1000, device="cpu"), 10_000)
    monkeypatch.setattr(crossover, "MEASURED", {})
    assert not kernel_is_faster(logits(196, 128, 1000), 10_000)


def test_the_closed_form_has_a_table_of_its_own(gpu, monkeypatch) -> None:
    for r, c, faster in ((49, 100, True), (48, 100, False), (49, 99, False)):
        assert closed_form_kernel_is_faster(logits(r, 128, c)) is faster
    assert not closed_form_kernel_is_faster(logits(49, triton_launch.MOST_EXAMPLES_CLOSED_FORM + 1, 1000))
    assert not closed_form_kernel_is_faster(logits(49, 128, 1000, dtype=torch.float64))
    monkeypatch.setattr(crossover, "MEASURED_CLOSED_FORM", {})
    assert not closed_form_kernel_is_faster(logits(196, 128, 1000))


def test_what_was_measured_is_written_where_it_is_read(tmp_path: Path) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "crossover.py"))
    assert script["entry"]([(10, False), (100, True), (50, False), (1000, True)]) == 100
    assert script["entry"]([(10, True), (100, False)]) is None
    file = tmp_path / "crossover.py"
    shutil.copy(crossover.__file__, file)
    script["write"](file, "MEASURED_CLOSED_FORM", {(9, 0, "float32"): 1e6})
    script["write"](file, "MEASURED", {(8, 0, "bf16"): 2e6})
    script["write"](file, "MEASURED", {(8, 0, "bf16"): 3e6, (9, 0, "tf32"): 4.5e7})
    source = file.read_text()
    assert "\nMEASURED: Table = {(8, 0, 'bf16'): 3000000.0, (9, 0, 'tf32'): 45000000.0}\n" in source
    assert "\nMEASURED_CLOSED_FORM: Table = {(9, 0, 'float32'): 1000000.0}\n" in source
    assert len(source.splitlines()) == len(Path(crossover.__file__).read_text().splitlines())


def test_a_size_that_fails_is_on_record_and_counts_as_lost(tmp_path: Path, monkeypatch) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "crossover.py"))
    monkeypatch.setattr("multimix.benchmarking.measure.synchronize", lambda device: None)

    def step(how: str) -> None:
        raise RuntimeError(f"out of memory: {how}\nmore")

    size = {"r": 49, "c": 10}
    record = Record(tmp_path / "found.json", {})
    assert script["in_turns"](step, "fused", "triton", record=record, table="closed_form", size=size) is None
    assert record.found["closed_form"] == [{"r": 49, "c": 10, "why_not": "out of memory: fused"}]
