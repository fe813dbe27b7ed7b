"""What n = infinity costs: `python benchmarks/closed_form_cost.py [--json FILE] [--tables TABLE ...]`, a minute.

Loss and gradient in the logits, the fused operator beside its reference (autograd through every tensor) and beside the
sampled loss of n = 1000; time in turns, and memory beyond the logits. Then, for the paper's sizes on a GPU, operations
and bytes are counted without running them; those of the Triton kernels too, where Triton is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from multimix import DenseMultiMix
from multimix.benchmarking.measure import interleaved, peak_memory, ratio
from multimix.benchmarking.record import Record
from multimix.kernels import closed_form, closed_form_kernel

B, MEASURED, COUNTED = 128, ((1, 100), (16, 100), (49, 1000)), ((1, 1000), (49, 1000), (196, 1000))
FORMS = {"fused": {"n": math.inf}, "reference": {"n": math.inf, "implementation": "reference"}, "n=1000": {"n": 1000}}


def inputs(r: int, c: int, **options) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits (B, r, c), labels and attention (B, r)."""
    labels = torch.randint(c, (B,), device=options.get("device"))
    attention = None if r == 1 else torch.rand(B, r, device=options.get("device"))
    return torch.randn(B, r, c, **options, requires_grad=True), labels, attention


def step(form: str, logits: Tensor, labels: Tensor, attention: Tensor | None) -> Callable[[], object]:
    criterion = DenseMultiMix(**FORMS[form])
    return lambda: torch.autograd.grad(criterion.from_logits(logits, labels, attention), logits)


def measure(r: int, c: int, rounds: int) -> dict:
    given = inputs(r, c)
    calls = {form: step(form, *given) for form in FORMS}
    # At 49 positions and 1000 classes the sampled loss takes seconds.
    times = interleaved(calls, rounds=rounds if r * c < 10_000 else 3, device="cpu", turn=0.05)
    return {
        "r": r,
        "c": c,
        "milliseconds": {form: 1e3 * statistics.median(seconds) for form, seconds in times.items()},
        "over_fused": {form: ratio(seconds, times["fused"]).median for form, seconds in times.items()},
        "mib": {form: peak_memory(call, device="cpu") / 2**20 for form, call in calls.items()},
    }


class Counter(TorchDispatchMode):
    """Operations that do work, and the bytes that each reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result, name = func(*args, **kwargs), func._schema.name
        if func.namespace == "aten" and not func.is_view and "empty" not in name and name != "aten::detach":
            outputs = {argument.name for argument in func._schema.arguments if argument.is_out}
            moved = [args, {key: value for key, value in kwargs.items() if key not in outputs}, result]
            if name == "aten::index":
                moved = [result, result]
            self.operations += 1
            self.bytes += sum(map(size, tree_leaves(moved)))
        return result


def size(leaf: object) -> int:
    """Bytes of a tensor without what is broadcast."""
    if not isinstance(leaf, Tensor):
        return 0
    return leaf.element_size() * math.prod(n for n, s in zip(leaf.shape, leaf.stride(), strict=True) if s)


class Launches:
    """In the place of a Triton kernel: counts what it reads and writes, each tensor once."""

    def __init__(self, name: str, counter: Counter) -> None:
        self.name, self.counter = name, counter

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args, **constants) -> None:
            # Of the logits this one only looks at those of the labels.
            moved = args[1:] if self.name == "_lse_of_tiles" else args
            self.counter.operations += 1
            self.counter.bytes += sum(map(size, moved))

        return launch


def count_kernels(logits: Tensor, labels: Tensor, attention: Tensor | None, counter: Counter) -> None:
    from multimix.kernels import triton_closed_form, triton_closed_form_gradient, triton_shares

    kernels = {
        triton_shares: ("_attend",),
        triton_closed_form: ("_mean", "_mean_of_tiles", "_nodes", "_lse_of_tiles"),
        triton_closed_form_gradient: ("_slopes", "_gradient"),
    }
    closed_form_kernel._nodes((0.5, 2.0, B, B), logits.device)  # in the first step alone
    with contextlib.ExitStack() as patches:
        for module, names in kernels.items():
            counted = {name: Launches(name, counter) for name in names}
            patches.enter_context(mock.patch.multiple(module, **counted))
        _, *known = closed_form_kernel._forward(logits, labels, attention, 0.5, 2.0, B, False, 1.0)
        closed_form_kernel._gradient_forward(logits.new_empty((), dtype=torch.float32), logits, labels, *known)


def count(r: int, c: int, form: str) -> dict:
    """On the device "meta", which computes shapes alone; logits in bfloat16."""
    logits, labels, attention = inputs(r, c, device="meta", dtype=torch.bfloat16)
    closed_form._uniform((0.5, 2.0, B, B), torch.float32, logits.device)  # in the first step alone
    with Counter() as counter:
        if form == "fused":  # a custom operator hides what is in it
            options = 0.5, 2.0, B, False, 1.0, True
            with torch.no_grad():
                loss, gradient = closed_form._forward(logits.transpose(0, 1), labels, attention, *options)
                (loss * gradient).to(logits.dtype)
        elif form == "triton":
            with torch.no_grad():
                count_kernels(logits.transpose(0, 1), labels, attention, counter)
        else:
            step(form, logits, labels, attention)()
    return {"r": r, "c": c, "form": form, "operations": counter.operations, "gigabytes": counter.bytes / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tables", nargs="+", choices=("measured", "counted"), default=("measured", "counted"))
    options = parser.parse_args()
    with Record(options.json, {"b": B, "rounds": options.rounds, "rounds of the largest": 3}) as record:
        forms = ("fused", "reference", "triton") if importlib.util.find_spec("triton") else ("fused", "reference")
        for table, rows in (
            ("measured", (measure(r, c, options.rounds) for r, c in MEASURED)),
            ("counted", (count(r, c, form) for r, c in COUNTED for form in forms)),
        ):
            for row in rows if table in options.tables else ():
                print(row, flush=True)
                record.add(table, row)


if __name__ == "__main__":
    main()
