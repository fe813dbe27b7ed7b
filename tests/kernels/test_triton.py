"""Runs `triton_cases.py` in the interpreter, and on a GPU where there is one, each in a process of its own.

Also compiles the kernel for GPUs, which needs none.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("where", ["interpreter", "GPU"])
def test_cases(where) -> None:
    pytest.importorskip("triton")
    if where == "GPU" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):  # of this process, not of the one it starts
        environment.pop(name, None)
    if where == "interpreter":
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "tests/kernels/triton_cases.py", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("capability", "one_tile", "soft", "subset", "precision", "dtype"), [
    (80, False, True, True, "tf32x3", "fp32"), (90, True, False, False, "bf16", "bf16"),
])  # fmt: skip
def test_the_kernel_compiles(capability, one_tile, soft, subset, precision, dtype) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from multimix.kernels.triton_loss import _kernel

    names = _kernel.arg_names
    constants = {
        "SOFT": soft, "SUBSET": subset, "GRADIENT": True, "ONE_TILE": one_tile, "PRECISION": precision,
        "BN": 16, "BB": 16, "BC": 16, "HALVES": True,
    }  # fmt: skip
    types = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in names} | {"low": "fp32", "high": "fp32"}
    types |= {"logits_ptr": f"*{dtype}", "targets_ptr": "*fp32" if soft else "*i64"}
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(_kernel, types, {(names.index(name),): value for name, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    assert compiled.asm["cubin"]
    # The order of atomic additions, and so the rounding of sums, would be up to the device.
    assert not re.search(r"\b(atom|red)\.", compiled.asm["ptx"])
