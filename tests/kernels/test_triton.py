"""Runs `triton_cases.py` in the interpreter, and on a GPU where there is one, each in a process of its own."""

import os
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
