"""`multimix bench`: measure loss, training step and sampler on this machine; `multimix bench methods`: any methods."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from ..benchmarking import floor, loss, sampler, steps
from ..benchmarking.measure import Ratio
from ..benchmarking.rates import cpu_rates
from ..benchmarking.record import Record
from ..kernels import triton_launch
from ..machine import fastest_device
from ..training.devices import use_device
from ..training.interrupt import as_ctrl_c
from .options import parse

Table = Literal["loss", "steps", "sampler"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `multimix bench` takes."""

    tables: tuple[Table, ...] = ("loss", "steps", "sampler")
    """What to measure."""
    n: int = 1000
    """Mixed examples; the steps also take ten times as many, and infinitely many."""
    b: int = 128
    """Mini-batch size of the loss; that of the steps is printed above them."""
    precisions: tuple[loss.Precision, ...] = ()
    """Precisions of the logits in the table of the loss; default: bfloat16 on a GPU, float32 on a CPU."""
    rounds: int = 15
    """How often ours and the alternatives are timed in turn; what takes long gets fewer rounds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure; auto: the GPU if there is one."""
    compile: bool = True
    """Also time the direct form of the loss compiled by torch.compile, which takes seconds to a minute a size."""
    json: Path | None = None
    """Write the results here too, as they come."""


def main(argv: list[str]) -> None:
    """Print the tables as they are measured; write them as JSON where asked to."""
    if argv[:1] == ["methods"]:
        from . import bench_methods

        return bench_methods.main(argv[1:])
    if argv and not argv[0].startswith("-"):
        raise ValueError(
            f"unknown table {argv[0]!r}: multimix bench takes options alone, multimix bench methods times any methods"
        )
    options = parse(
        argv,
        Options(),
        prog="multimix bench",
        description="The loss (sampling, forward, backward) against the direct form: mix embeddings, classify, cross "
        "entropy; whole training steps beside ERM's; the sampler of the weights. All in turns in this process: ratios "
        "are medians over rounds, with an interval that holds the true median with a probability of 95 % (under six "
        "rounds, the extremes). `multimix bench methods` measures training steps of any methods on any network.",
    )
    for name in ("n", "b", "rounds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")
    device = _device(options.device)
    with as_ctrl_c(), Record(options.json, asdict(options)) as record:
        rates = _rates(device)
        record.note("rates", {precision: found._asdict() for precision, found in rates.items()})
        if "loss" in options.tables:
            _loss(options, device, rates, record)
        if "steps" in options.tables:
            with warnings.catch_warnings():
                # It is timed here whatever it is worth in so small a mini-batch.
                warnings.filterwarnings("ignore", message="n=math.inf is inaccurate")
                _steps(options, device, rates, record)
        if "sampler" in options.tables:
            _sampler(options, device, record)
        _footnotes(options.tables, device, rates)


def _device(asked: Literal["auto", "cpu", "cuda"]) -> Device:
    if asked == "auto":
        return fastest_device()
    use_device(asked)
    return asked


def _rates(device: Device) -> Mapping[loss.Precision, floor.Rates]:
    if device == "cpu":
        return {"float32": cpu_rates()}
    name = torch.cuda.get_device_name()
    found = {
        "bfloat16": floor.gpu_rates(name, "bf16"),
        "float32": floor.gpu_rates(name, triton_launch.precision(torch.float32)),
    }
    return {precision: rates for precision, rates in found.items() if rates is not None}  # type: ignore[misc]


def _loss(options: Options, device: Device, rates: Mapping[loss.Precision, floor.Rates], record: Record) -> None:
    print(f"\nThe loss on {device}, n={options.n}, b={options.b}, alpha ~ U[0.5, 2]; forward and backward")
    print(
        f"{'d':>5} {'c':>5} {'r':>4} {'precision':<9} {'':<16} {'ms':>9} {'over floor':>10} {'direct / this':>22} "
        f"{'compiled / this':>22} {'peak MiB':>9}"
    )
    for row in loss.run(
        n=options.n,
        b=options.b,
        rounds=options.rounds,
        device=device,
        compiled=options.compile,
        precisions=options.precisions or (("float32",) if device == "cpu" else ("bfloat16",)),
        rates=rates,
    ):
        record.add("loss", row)
        start = f"{row.d:>5} {row.c:>5} {row.r:>4} {row.precision:<9} {row.variant:<16}"
        if row.why_not:
            print(f"{start} not measured: {row.why_not}", flush=True)
            continue
        print(
            f"{start} {row.milliseconds:>9.2f} {_number(row.over_floor, '.1f'):>10} "
            f"{_ratio(row.faster_than_direct, '.2f'):>22} {_ratio(row.faster_than_compiled, '.2f'):>22} "
            f"{row.mib:>9.1f}",
            flush=True,
        )


def _steps(options: Options, device: Device, rates: Mapping[loss.Precision, floor.Rates], record: Record) -> None:
    settings = steps.CPU if device == "cpu" else steps.CUDA
    shown = None
    for row in steps.run(
        settings,
        n=(options.n, 10 * options.n, math.inf),
        device=device,
        rounds=options.rounds,
        seconds=0.4 if device == "cpu" else 2.0,
        rates=rates.get("float32" if device == "cpu" else "bfloat16"),
    ):
        record.add("steps", row)
        if row.setting != shown:
            shown = row.setting
            print(
                f"\nWhole training steps on {device}: {shown.model}, {shown.image_size}x{shown.image_size}, "
                f"{shown.classes} classes, b={shown.b}, {shown.precision}{', channels last' * shown.channels_last}"
            )
            print(f"{'':<30} {'ms':>9} {'time / ERM':>22} {'at the floor':>12} {'peak MiB':>9}")
        if row.why_not:
            print(f"{row.method:<30} not measured: {row.why_not}", flush=True)
            continue
        print(
            f"{row.method:<30} {row.milliseconds:>9.2f} {_ratio(row.over_erm, '.3f'):>22} "
            f"{_number(row.least, '.3f'):>12} {row.mib:>9.1f}",
            flush=True,
        )


def _sampler(options: Options, device: Device, record: Record) -> None:
    print(f"\nThe sampler on {device}: weights ({sampler.POSITIONS}, {options.n}, {options.b}), nanoseconds each")
    print(f"{'alpha':>10} {'PyTorch':>9} {'ours':>9} {'PyTorch / ours':>22}")
    for row in sampler.run(n=options.n, b=options.b, rounds=options.rounds, device=device):
        record.add("sampler", row)
        alpha = "-".join(map(str, row.alpha)) if isinstance(row.alpha, tuple) else str(row.alpha)
        print(f"{alpha:>10} {row.pytorch_ns:>9.2f} {row.ours_ns:>9.2f} {row.faster.text('.2f'):>22}", flush=True)


def _footnotes(tables: Sequence[Table], device: Device, rates: Mapping[loss.Precision, floor.Rates]) -> None:
    copy = "; of ERM it is a second copy's: the noise" if "steps" in tables else ""
    print(f"\n[low, high] holds the true median over rounds{copy}.")
    if not {"loss", "steps"} & set(tables):
        return  # nothing was compared with a floor
    if device == "cpu":
        per_second = ", ".join(f"{value:.2g} {name}" for name, value in list(rates["float32"]._asdict().items())[:4])
        print(
            f"Floor: the least time for the operations of loss and classifier at rates measured here, in a second: "
            f"{per_second} (gammas by the faster of our sampler and PyTorch's)."
        )
    elif rates:
        print("Floor: the least time for the operations of loss and classifier at the vendor's rates.")
    else:
        print(f"– : the rates of {torch.cuda.get_device_name()} are unknown (multimix.benchmarking.floor): no floor.")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _ratio(value: Ratio | None, form: str) -> str:
    return "–" if value is None else value.text(form)
