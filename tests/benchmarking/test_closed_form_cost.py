"""What `benchmarks/closed_form_cost.py` counts, beside the bytes that must move whatever the code is."""

import importlib.util
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "closed_form_cost.py"


@pytest.mark.parametrize("r", [1, 49])
def test_counted_bytes_are_above_the_least_and_those_of_kernels_near_it(r) -> None:
    count = runpy.run_path(str(SCRIPT))["count"]
    b, c = 128, 1000
    logits = r * b * c * 2 / 1e9
    counted = {form: count(r, c, form)["gigabytes"] for form in ("fused", "reference")}
    assert 2 * logits < counted["fused"] < counted["reference"]
    if importlib.util.find_spec("triton"):
        # The logits are read four times, the gradient is written once; the rest is one byte in four at most.
        kernels = count(r, c, "triton")
        assert 5 * logits < kernels["gigabytes"] < (7 if r > 1 else 8) * logits
        assert kernels["operations"] < 25
        assert kernels["gigabytes"] < counted["fused"] / 10
