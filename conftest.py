"""Doctests of the Triton kernels are collected where Triton is installed."""

from importlib.util import find_spec

collect_ignore_glob = (
    []
    if find_spec("triton")
    else [f"src/multimix/kernels/triton_{name}.py" for name in ("closed_form", "draw", "loss")]
)
