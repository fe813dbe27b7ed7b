"""Doctests of the Triton kernels are collected where Triton is installed."""

from importlib.util import find_spec

collect_ignore_glob = (
    [] if find_spec("triton") else ["src/multimix/kernels/triton_draw.py", "src/multimix/kernels/triton_loss.py"]
)
