"""`multimix bench methods`: the training speed of methods on a network, each beside ERM (Table 3 of the paper)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from .. import methods
from ..benchmarking import methods as benchmark
from ..benchmarking.record import Record
from ..training import Config
from ..training.devices import use_device
from ..training.interrupt import as_ctrl_c
from .options import parse

DEFAULT = (
    "erm,input-mixup,manifold-mixup,cutmix,multimix-alone,dense-multimix-alone,"
    "multimix-alone(n=inf),dense-multimix-alone(n=inf)"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `multimix bench methods` takes."""

    methods: str = DEFAULT
    """Methods, separated by commas, those with options in quotes; `all` stands for every one that needs no options."""
    n: tuple[int | Literal["inf"], ...] = ()
    """Also MultiMix and Dense MultiMix at these numbers of mixed examples: --n 100 1000 inf."""
    model: str = "preactresnet18"
    """A network, as `multimix train --model` takes it."""
    image_size: int = 32
    """Side of the images, pixels."""
    classes: int = 100
    """Number of classes."""
    batch_size: int = 128
    """Images per step."""
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Precision of the network."""
    channels_last: bool = False
    """Keep images and convolutions in the channels-last memory format."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure; auto: the GPU if there is one."""
    rounds: int = 9
    """Rounds of each method and ERM in turns; the medians are printed."""
    seconds: float = benchmark.SECONDS
    """About how long to measure each: short steps are repeated, and long ones get fewer rounds, but at least 3."""
    json: Path | None = None
    """Write the results here too, as they come."""


def main(argv: list[str]) -> None:
    """Print the table as it is measured."""
    options = parse(
        argv,
        Options(),
        prog="multimix bench methods",
        description="Whole training steps (forward, loss, backward, optimiser) on made-up images, each method in turns "
        "with ERM in this process; the ratio is the median over rounds. The interval holds the true median with a "
        "probability of 95 % (under six rounds: the extremes); for ERM it is of a second copy, the noise. Methods that "
        "choose at random for every mini-batch count with their expected time.",
    )
    listed = methods.split_list(options.methods)
    every = [name for given in listed for name in (methods.complete() if given == "all" else [given])]
    chosen = list(dict.fromkeys(every))
    for n in options.n:
        chosen += [f"multimix-alone(n={n})", f"dense-multimix-alone(n={n})"]
    for method in chosen:
        methods.parse(method)
    if not chosen:
        raise ValueError(f"--methods is empty: name some, separated by commas, such as {DEFAULT}")
    for name, least in (("rounds", 1), ("image_size", 1), ("classes", 2)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(options, name)}")
    if not options.seconds > 0:
        raise ValueError(f"--seconds must be positive, got {options.seconds}")
    if options.device != "auto":
        use_device(options.device)
    config = Config(
        data="digits",  # a configuration names data; the images are made up
        model=options.model,
        batch_size=options.batch_size,
        precision=options.precision,
        channels_last=options.channels_last,
        accelerator=options.device,
    )
    with as_ctrl_c(), Record(options.json, asdict(options)) as record:
        print(
            f"{options.model}, {options.image_size}x{options.image_size}, {options.classes} classes, "
            f"b={options.batch_size}, {options.precision}\n"
        )
        width = max(map(len, chosen))
        print(f"{'method':<{width}} {'images/s':>9} {'of ERM':>22} {'ms/step':>9} {'peak MiB':>9}")
        for row in benchmark.run(
            chosen,
            config,
            num_classes=options.classes,
            image_size=options.image_size,
            rounds=options.rounds,
            seconds=options.seconds,
        ):
            record.add("methods", row)
            if row.speed is None:
                print(f"{row.method:<{width}} not measured: {row.why_not}", flush=True)
            else:
                print(
                    f"{row.method:<{width}} {row.images_per_second:>9.1f} {row.speed.text('.3f'):>22} "
                    f"{row.milliseconds:>9.2f} {row.peak_mib:>9.1f}",
                    flush=True,
                )
