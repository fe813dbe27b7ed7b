"""Runs the cases of the Triton kernels in the interpreter, and on a GPU where there is one, in a process of its own.

Also compiles the kernels for GPUs, which needs none.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from multimix.benchmarking.compiled import compile_for, resources
from multimix.kernels.triton_launch import choose, tile

numpy, triton = pytest.importorskip("numpy"), pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)


@pytest.mark.timeout(620)
@pytest.mark.parametrize("where", ["interpreter", "GPU"])
def test_cases(where) -> None:
    if where == "GPU" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if where == "interpreter" and TorchVersion(triton.__version__) < "3.7" and TorchVersion(numpy.__version__) >= "2.4":
        pytest.skip(f"Triton {triton.__version__}'s interpreter fails with NumPy {numpy.__version__}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):  # of this process, not of the one it starts
        environment.pop(name, None)
    if where == "interpreter":
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    files = ["tests/kernels/triton_cases.py", "tests/kernels/triton_closed_form_cases.py"]
    command = [sys.executable, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@needs_compiler
@pytest.mark.parametrize(("capability", "soft", "subset", "precision"), [
    (80, True, True, "tf32x3"), (90, False, False, "bf16"),
])  # fmt: skip
def test_the_kernels_compile(capability, soft, subset, precision) -> None:
    from multimix.kernels.triton_loss import _accumulate, _centre, _finish

    half = "*bf16" if precision == "bf16" else "*fp32"
    sizes: dict[str, object] = {"BB": 16, "BC": 16}
    flags = {"SOFT": soft, "GRADIENT": True}
    for kernel, pointers, constants in (
        (_centre, {"logits_ptr": half, "deviations_ptr": half}, {"PRECISION": precision}),
        (
            _accumulate,
            {"deviations_ptr": half},
            flags
            | {"SUBSET": subset, "WARPED": not soft, "BOOSTED": soft, "PRECISION": precision, "BN": 16, "ROWS": 8},
        ),
        (_finish, {"deviations_ptr": half, "targets_ptr": "*fp32" if soft else "*i64"}, flags | {"BK": 16}),
    ):
        compiled = compile_for(kernel, capability, pointers, sizes | constants, num_warps=4)
        assert compiled.asm["cubin"]
        # The order of atomic additions, and so the rounding of sums, would be up to the device.
        assert not re.search(r"\b(atom|red)\.", compiled.asm["ptx"])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_registers_hold_the_full_size(precision) -> None:
    from multimix.kernels.triton_loss import _accumulate

    launch = choose(positions=49, n=1000, b=128, c=1000, precision=precision, processors=132)
    constants = {"SOFT": False, "SUBSET": False, "WARPED": True, "BOOSTED": False, "GRADIENT": True}
    constants |= {"BN": launch.BN, "BB": launch.BB, "BC": launch.BC, "ROWS": launch.rows, "PRECISION": precision}
    half = "*bf16" if precision == "bf16" else "*fp32"
    compiled = compile_for(
        _accumulate, 90, {"deviations_ptr": half}, constants, num_warps=launch.warps, num_stages=launch.stages
    )
    # 16 and 40 bytes of a thread's 1 KiB of registers with Triton 3.8 and 3.9, 184 with 3.6.
    assert resources(compiled).spilled <= (
        0 if precision == "tf32" else 64 if TorchVersion(triton.__version__) >= "3.8" else 192
    )
    assert resources(compiled).shared <= 227 * 1024


@needs_compiler
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("logits", ["*bf16", "*fp32"])
def test_the_kernels_of_the_closed_form_compile_at_full_size(logits, soft) -> None:
    from multimix.kernels import triton_closed_form as forward
    from multimix.kernels import triton_closed_form_gradient as backward
    from multimix.kernels import triton_shares

    pointers = {"logits_ptr": logits, "grad_ptr": logits, "targets_ptr": "*fp32" if soft else "*i64"}
    in_backward = backward._slopes, backward._gradient
    for kernel in (triton_shares._attend, forward._mean, forward._mean_of_tiles, forward._nodes, forward._lse_of_tiles,
                   *in_backward):  # fmt: skip
        size = tile(b=128, c=1000, backward=kernel in in_backward)
        constants = {"K": 3, "Q": 8, "SOFT": soft, "ALIGN": 4, "BB": size.BB, "BC": size.BC, "BT": 16}
        mine, theirs = (
            {name: value for name, value in given.items() if name in kernel.arg_names}
            for given in (constants, pointers)
        )
        compiled = compile_for(kernel, 90, theirs, mine, num_warps=size.warps)
        used = resources(compiled)
        assert used.spilled == 0
        assert used.registers <= 128, "two programs of a multiprocessor"
        assert used.shared <= 16 * 1024
        assert not re.search(r"\b(atom|red)\.", compiled.asm["ptx"])
        if logits == "*bf16" and "ALIGN" in mine:
            assert re.search(r"ld\.global\.v2\.b32", compiled.asm["ptx"]), "four logits at once"
