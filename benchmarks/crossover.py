"""Which implementation of the loss is faster from which size on: `python benchmarks/crossover.py [--json FILE]`.

On an NVIDIA GPU: the Triton kernel against the chunked path, with time over the floor; for n = infinity, the kernels
against PyTorch block by block, with the rate at which five passes over the logits would move memory; and the lines
that `multimix/kernels/crossover.py` takes, which `--write` puts there; bfloat16 at all sizes, float32 at some. About
six minutes, not measured yet. Elsewhere: the reference,
every tensor in memory, against the chunked path on the CPU; half a minute.
"""

import argparse
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from multimix import DenseMultiMix
from multimix.benchmarking import floor, measure
from multimix.benchmarking.measure import interleaved, ratio
from multimix.benchmarking.record import Record
from multimix.errors import first_line
from multimix.functional import expected_mixed_cross_entropy
from multimix.kernels import crossover
from multimix.kernels.ops import sampled_cross_entropy

CLOSED_FORM_SIZES = [(r, c) for r in (1, 16, 49, 196) for c in (10, 100, 1000)]
SIZES = [(r, n, c) for r in (1, 16, 49, 196) for n in (100, 1000, 10_000) for c in (10, 100, 1000)]
FEWER_SIZES = [(r, n, c) for r, n, c in SIZES if n == 1000]
B = 128
PRECISIONS = {
    "bf16": (torch.bfloat16, "highest"),
    "tf32x3": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
}
"""Of `triton_launch.precision`: the dtype of the logits, and what `torch.set_float32_matmul_precision` asks for."""
CPU_SIZES = [(1, 10, 4, 2), (1, 100, 32, 10), (16, 100, 32, 10), (1, 1000, 128, 10), (1, 1000, 128, 100)]
CPU_SIZES += [(16, 1000, 128, 100), (1, 1000, 128, 1000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times here too")
    parser.add_argument("--write", action="store_true", help="write the lines into multimix/kernels/crossover.py")
    options = parser.parse_args()
    with Record(options.json, {"b": B}) as record:
        if not torch.cuda.is_available():
            return on_cpu(record)
        measured = [("MEASURED", by, lambda by=by: sampled_on_gpu(record, by)) for by in PRECISIONS]
        measured += [
            ("MEASURED_CLOSED_FORM", by, lambda by=by: closed_form_on_gpu(record, getattr(torch, by)))
            for by in ("bfloat16", "float32")
        ]
        for name, by, find in measured:
            least = entry(find())
            if least is None:
                print(f"{name}, {by}: nothing, the kernel is slower at the largest size")
                continue
            table = getattr(crossover, name)
            table[(*torch.cuda.get_device_capability(), by)] = least
            print(f"{name}: {table}")
            if options.write:
                write(Path(crossover.__file__), name, table)


def entry(faster: list[tuple[int, bool]]) -> float | None:
    """From sizes, and whether the kernel was faster there or not clearly slower, to the least size from which it always
    was; one noisy loss at a large size would else rule it out everywhere."""
    slower = max((size for size, won in faster if not won), default=0)
    return min((float(size) for size, _ in faster if size > slower), default=None)


def write(file: Path, name: str, table: crossover.Table) -> None:
    """Replace the table of that name in the source."""
    source, count = re.subn(rf"^({name}: .* = ).*$", rf"\g<1>{table}", file.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"{file} has {count} lines that begin with {name}: write {table} there by hand")
    file.write_text(source)


def on_cpu(record: Record) -> None:
    generator = torch.Generator().manual_seed(0)
    for r, n, b, c in CPU_SIZES:
        logits, labels = torch.randn(b, r, c, requires_grad=True), torch.randint(c, (b,))
        criteria = {how: DenseMultiMix(n, implementation=how) for how in ("reference", "auto")}

        def step(
            how: str, logits: torch.Tensor = logits, labels: torch.Tensor = labels, criteria: dict = criteria
        ) -> None:
            torch.autograd.grad(criteria[how].from_logits(logits, labels, None, generator), logits)

        times = interleaved({how: lambda how=how: step(how) for how in criteria}, rounds=9, device="cpu", turn=0.05)
        over = ratio(times["reference"], times["auto"]).median
        size = {"r": r, "n": n, "b": b, "c": c}
        record.add("cpu", size | {"chunked_us": 1e6 * min(times["auto"]), "reference_over_chunked": over})
        print(f"r={r} n={n} b={b} c={c}: chunked {1e6 * min(times['auto']):.0f} us, reference / chunked {over:.2f}")


def in_turns(
    step: Callable[[str], None], *names: str, record: Record, table: str, size: dict[str, int]
) -> dict[str, list[float]] | None:
    """The times of the implementations of these names, or None where one fails: that size is lost, not the others."""
    try:
        return interleaved({name: lambda name=name: step(name) for name in names}, rounds=15, device="cuda", turn=0.05)
    except Exception as error:  # the compiler's and the kernels' own among them
        print(f"{', '.join(f'{name}={value}' for name, value in size.items())} failed: {first_line(error)}")
        record.add(table, size | {"why_not": first_line(error)})
        measure.synchronize("cuda")  # raises where the device can no longer be used, and nothing more can be measured
        return None


def closed_form_on_gpu(record: Record, dtype: torch.dtype) -> list[tuple[int, bool]]:
    torch.set_float32_matmul_precision("highest")  # other measurements set it
    faster: list[tuple[int, bool]] = []
    for r, c in CLOSED_FORM_SIZES:
        logits = torch.randn(B, r, c, device="cuda", dtype=dtype).transpose(0, 1).requires_grad_()
        labels, attention = torch.randint(c, (B,), device="cuda"), torch.rand(B, r, device="cuda")

        def step(
            how: str, logits: torch.Tensor = logits, labels: torch.Tensor = labels, a: torch.Tensor = attention
        ) -> None:
            torch.autograd.grad(expected_mixed_cross_entropy(logits, labels, a, implementation=how), logits)

        size = {"dtype": str(dtype), "r": r, "c": c}
        times = in_turns(step, "fused", "triton", record=record, table="closed_form", size=size)
        if times is None:
            faster.append((logits.numel(), False))
            continue
        over, kernels = ratio(times["fused"], times["triton"]), statistics.median(times["triton"])
        faster.append((logits.numel(), over.high > 1))
        rate = 5 * dtype.itemsize * logits.numel() / kernels / 1e12
        record.add("closed_form", size | {"triton_ms": 1e3 * kernels, "fused_over_triton": over.median})
        print(f"n=inf {dtype} r={r} c={c}: triton {1e3 * kernels:.3f} ms, {over.median:.2f}x fused, {rate:.2f} TB/s")
    return faster


def sampled_on_gpu(record: Record, precision: str) -> list[tuple[int, bool]]:
    faster: list[tuple[int, bool]] = []
    dtype, products = PRECISIONS[precision]
    torch.set_float32_matmul_precision(products)
    for r, n, c in SIZES if precision == "bf16" else FEWER_SIZES:
        if r * n * B * c > 2e11:
            continue
        logits = torch.randn(r, B, c, device="cuda", dtype=dtype, requires_grad=True)
        labels, attention = torch.randint(c, (B,), device="cuda"), torch.rand(B, r, device="cuda")

        def step(
            how: str,
            logits: torch.Tensor = logits,
            labels: torch.Tensor = labels,
            a: torch.Tensor = attention,
            n: int = n,
        ) -> None:
            drawn = torch.tensor(1), torch.tensor(0.5), torch.tensor(2.0)
            options = {"n": n, "m": None, "normalize": "position", "implementation": how}
            torch.autograd.grad(sampled_cross_entropy(logits, labels, a, *drawn, **options), logits)

        size = {"precision": precision, "r": r, "n": n, "c": c}
        times = in_turns(step, "chunked", "triton", record=record, table="sampled", size=size)
        if times is None:
            faster.append((r * n * B * c, False))
            continue
        over = ratio(times["chunked"], times["triton"])
        rates = floor.gpu_rates(torch.cuda.get_device_name(), precision)
        work = floor.sampled_loss(positions=r, n=n, b=B, c=c, itemsize=dtype.itemsize)
        kernel = statistics.median(times["triton"])
        faster.append((r * n * B * c, over.high > 1))
        over_floor = kernel / floor.seconds(work, rates) if rates else None
        row = {"triton_ms": 1e3 * kernel, "chunked_over_triton": over.median, "over_floor": over_floor}
        record.add("sampled", size | row)
        beside = "floor not known" if over_floor is None else f"{over_floor:.1f}x floor"
        print(f"{precision} r={r} n={n} c={c}: triton {1e3 * kernel:.3f} ms, {over.median:.2f}x chunked, {beside}")
    return faster


if __name__ == "__main__":
    main()
