"""What the compiler makes of the Triton kernel of the sampled loss: `python benchmarks/kernels.py`; no GPU.

For each compute capability and precision: the registers of a thread and what they do not hold, shared memory, and the
instructions that a warp executes for a block of mixtures: drawing weights, the Gram matrix, the two passes over the
classes. r = 49, n = 1000, c = 1000, index targets, alpha in [0.5, 2] unless said. The time is the least that these
instructions take, at one a cycle for each of the four schedulers of a processor and the clock of an H100 or A100, if
nothing ever waits. Drawing rejected weights again takes a number of passes that chance decides: the mean of simulated
blocks. A minute.
"""

import argparse
import ast
import inspect
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton
from torch.torch_version import TorchVersion

from multimix.benchmarking import floor
from multimix.benchmarking.compiled import Instruction, Loop, compile_for, disassemble, resources
from multimix.benchmarking.record import Record
from multimix.kernels import triton_draw, triton_loss
from multimix.kernels.triton_launch import Launch, choose

R, N, C = 49, 1000, 1000
PHASES = ("drawing", "Gram matrix", "first pass", "second pass")
REJECTED = {True: 1 / 148, False: 1 / 30}
"""Of attempts, by the warped exponential and by Marsaglia and Tsang."""
DEVICES = {90: floor.GPUS["H100"], 80: floor.GPUS["A100"]}
SCHEDULERS, PER_THREAD = 4, 8


@dataclass(frozen=True)
class Case:
    """What is compiled."""

    capability: int
    precision: str
    b: int = 128
    low: float = 0.5
    high: float = 2.0
    m: int | None = None


CASES = [
    Case(90, "bf16"), Case(90, "tf32"), Case(90, "tf32x3"), Case(80, "bf16"), Case(80, "tf32"), Case(90, "bf16", b=256),
    Case(90, "bf16", low=0.02, high=0.02), Case(90, "bf16", low=3, high=3), Case(90, "bf16", m=8),
]  # fmt: skip


def measure(case: Case) -> dict[str, Any]:
    device = DEVICES[case.capability]
    launch = choose(
        positions=R, n=N, b=case.b, c=C, precision=case.precision, processors=device.processors,
        capability=(case.capability // 10, 0),
    )  # fmt: skip
    concentration = triton_draw.concentration(case.low, case.high)
    flags = {name: concentration[name] for name in ("WARPED", "BOOSTED")} | {"SUBSET": case.m is not None}
    sizes = {"BN": launch.BN, "BB": launch.BB, "BC": launch.BC, "ROWS": launch.rows}
    compiled = compile_for(
        triton_loss._accumulate, case.capability, {"deviations_ptr": "*bf16" if case.precision == "bf16" else "*fp32"},
        {"SOFT": False, "GRADIENT": True, "PRECISION": case.precision, **flags, **sizes},
        num_warps=launch.warps, num_stages=launch.stages,
    )  # fmt: skip
    used = resources(compiled)
    counts = by_phase(*disassemble(compiled), launch, passes(launch, REJECTED[bool(flags["WARPED"])]))
    blocks = math.ceil(math.ceil(N / launch.BN) / launch.splits) * math.ceil(R * launch.splits / device.processors)
    cycles = blocks * sum(counts.values()) * launch.warps / SCHEDULERS
    return {
        **asdict(case), "launch": launch._asdict(), **used._asdict(), "instructions": counts,
        "instructions for a weight": counts["drawing"] * launch.warps * 32 / (launch.BN * launch.BB),
        "seconds": cycles / device.clock,
    }  # fmt: skip


def passes(launch: Launch, rejected: float) -> float:
    """Until the last group has drawn its rejected weights again, one at a time."""
    rng = np.random.default_rng(0)
    groups = launch.rows * launch.BB // PER_THREAD
    first = rng.binomial(PER_THREAD, rejected, (2000, groups))
    return float((first + rng.negative_binomial(np.maximum(first, 1), 1 - rejected) * (first > 0)).max(1).mean())


def by_phase(instructions: list[Instruction], loops: list[Loop], launch: Launch, retries: float) -> dict[str, float]:
    """How many a warp executes for a block, by the loop of the source that they come from.

    A loop of the machine's is that of the source that nearly all of it comes from (that over blocks has several);
    within drawing it is the one that draws rejected weights again.
    """
    bodies = source_loops()
    parts, tiles = launch.BN // launch.rows, math.ceil(C / launch.BC)
    times = dict(zip(PHASES, (parts, max(1, launch.BB // launch.BC), tiles, tiles), strict=True))
    phases = [
        next((phase for phase, body in bodies.items() if step.lines and step.lines[-1][1] in body), None)
        for step in instructions
    ]
    repeated: dict[Loop, float] = {}
    for loop in sorted(loops, key=lambda loop: loop.first - loop.last):  # outer ones first
        found = [phase for phase in phases[loop.first : loop.last + 1] if phase]
        phase = max(PHASES, key=found.count)
        if found.count(phase) > 0.9 * len(found):
            again = phase == "drawing" and (parts == 1 or any(loop in other for other in repeated))
            repeated[loop] = retries if again else times[phase]
    counts = dict.fromkeys(PHASES, 0.0)
    for index, phase in enumerate(phases):
        if phase:
            counts[phase] += math.prod(factor for loop, factor in repeated.items() if loop.first <= index <= loop.last)
    return counts


def source_loops() -> dict[str, range]:
    """The lines of the loops of `_accumulate` over parts of a block, columns, and twice over classes."""
    lines, start = inspect.getsourcelines(triton_loss._accumulate.fn)
    function = ast.parse("".join(lines)).body[0]
    blocks = next(node for node in ast.walk(function) if isinstance(node, ast.For))
    loops = [node for node in ast.walk(blocks) if isinstance(node, ast.For) and node is not blocks]
    loops.sort(key=lambda node: node.lineno)
    return {
        phase: range(start + loop.lineno - 1, start + (loop.end_lineno or 0))
        for phase, loop in zip(PHASES, loops, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the results")
    if TorchVersion(triton.__version__) < "3.8":
        parser.error(f"Triton {triton.__version__} does not record where functions are called; 3.8 or newer is needed")
    with Record(parser.parse_args().json, {"r": R, "n": N, "c": C}, "triton") as record:
        phases = "  ".join(f"{phase:>11}" for phase in PHASES)
        print(f"\n{'':34}  registers  spilled  shared  {phases}  a weight  time, ms")
        for case in CASES:
            row = measure(case)
            record.add("kernels", row)
            what = f"{case.capability / 10} {case.precision}, b={case.b}, alpha={case.low:g}-{case.high:g}"
            what += f", m={case.m}" if case.m else ""
            counts = "  ".join(f"{row['instructions'][phase]:11,.0f}" for phase in PHASES)
            print(f"{what:34}  {row['registers']:9}  {row['spilled']:7}  {row['shared'] // 1024:3} KiB  {counts}  "
                  f"{row['instructions for a weight']:8.0f}  {1e3 * row['seconds']:8.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
