"""Epochs a minute: `python benchmarks/epoch.py [--model preactresnet18 --device cuda ...] [--json FILE]`.

Our training loop against the network alone, a plain DataLoader loop, timm's training step with its mixup, and the
package `mixup` (where it is installed: pip install mixup), in turns in one process, on random images of CIFAR's shape.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
from pathlib import Path

import timm
import torch
import torchvision

from multimix.benchmarking import epoch
from multimix.benchmarking.measure import clock, hardware
from multimix.training import Config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="smallnet", help="network")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", type=int, default=2, help="loading processes of the others; ours has none")
    parser.add_argument("--examples", type=int, default=50_000, help="images of an epoch")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--methods", default="erm,input-mixup,multimix")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = Config(
        data="cifar100",
        model=options.model,
        batch_size=options.batch_size,
        accelerator=options.device,
        precision=options.precision,
        channels_last=options.channels_last,
        compile=options.compile,
        workers=options.workers,
        lr=1e-3,  # the labels are random: the weights must stay finite
        schedule="constant",
        epochs=1,
    )
    machine = {**hardware(), "timm": timm.__version__, "torchvision": torchvision.__version__}
    if importlib.util.find_spec("mixup"):
        machine["mixup"] = importlib.metadata.version("mixup")
    settings = {k: v for k, v in vars(options).items() if k != "json"}
    settings["clock"] = clock(options.device, alone=options.workers == 0).__name__
    print("  ".join(f"{key}: {value}" for key, value in machine.items()))
    print("  ".join(f"{key}: {value}" for key, value in settings.items()), end="\n\n")
    print(f"{'loop':<15} {'method':<12} {'images/s':>9} {'epochs/min':>10}  ours / this [95% interval of the median]")
    rows = []
    for row in epoch.run(
        config,
        epoch.made_up(options.examples, options.classes),
        chosen=options.methods.split(","),
        steps=options.steps,
        rounds=options.rounds,
        say=print,
    ):
        rows.append(dataclasses.asdict(row) | {"ours_is_faster": row.ours_is_faster and row.ours_is_faster._asdict()})
        faster = "" if row.ours_is_faster is None else row.ours_is_faster.text(".2f")
        line = f"{row.loop:<15} {row.method:<12} {row.images_per_second:>9.0f} {row.epochs_per_minute:>10.3f}  {faster}"
        print(line.rstrip(), flush=True)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(
                json.dumps({"machine": machine, "settings": settings, "epoch": rows}, indent=2) + "\n"
            )


if __name__ == "__main__":
    main()
