"""How often the instructions of a compiled kernel are executed, by a listing made by hand."""

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest

from multimix.benchmarking.compiled import Instruction, Loop
from multimix.kernels.triton_launch import Launch

triton = pytest.importorskip("triton")


@pytest.fixture
def kernels() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
    spec = importlib.util.spec_from_file_location("kernels", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_instructions_count_as_often_as_their_loops_run(kernels, monkeypatch) -> None:
    bodies = dict(zip(kernels.PHASES, (range(10, 20), range(20, 30), range(30, 40), range(40, 50)), strict=True))
    monkeypatch.setattr(kernels, "source_loops", lambda: bodies)
    lines = [1, 5, 10, 12, 13, 14, 19, 20, 29, 30, 31, 40, 41, 42, 5]
    listing = [Instruction("FADD", [("random.py", 3), ("triton_loss.py", line)]) for line in lines]
    # Over blocks; over parts, with rejected weights in it; over columns; twice over classes.
    loops = [Loop(1, 14), Loop(2, 6), Loop(4, 5), Loop(7, 8), Loop(9, 10), Loop(11, 13)]
    launch = Launch(BN=128, BB=128, BC=64, rows=16, warps=8, stages=3, splits=2)
    assert kernels.by_phase(listing, loops, launch, retries=3.0) == {
        "drawing": 3 * 8 + 2 * 8 * 3, "Gram matrix": 2 * 2, "first pass": 2 * 16, "second pass": 3 * 16,
    }  # fmt: skip


def test_the_loops_of_the_kernel_are_those_of_its_phases(kernels) -> None:
    found = list(kernels.source_loops().values())
    assert [body.start for body in found] == sorted(body.start for body in found)
    assert all(before.stop <= after.start for before, after in itertools.pairwise(found))


def test_passes_until_the_last_group_has_drawn(kernels) -> None:
    launch = Launch(BN=128, BB=128, BC=64, rows=16, warps=8, stages=3, splits=2)
    assert kernels.passes(launch, 0.0) == 0
    # The largest of 256 numbers of passes is nearly always one to three.
    assert 1 < kernels.passes(launch, 1 / 148) < 3
    assert kernels.passes(launch, 1 / 30) > kernels.passes(launch, 1 / 148)
