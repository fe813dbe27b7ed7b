"""What the benchmarks of the training loop ask for on the command line, and the configuration that it stands for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..training import Config
from .record import Record

__all__ = ["begin", "make_config", "make_parser"]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of network, batch, device, threads and file; how much to measure is for each benchmark to add.

    >>> make_parser("").parse_args(["--batch-size", "8"]).batch_size
    8
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="smallnet", help="network")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step and process")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true", help="in our loop and the network alone; with --compile")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, per process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser


def make_config(options: argparse.Namespace, **others: Any) -> Config:
    """The configuration that the options of `make_parser` stand for, on images of CIFAR's shape."""
    fields = {
        "data": "cifar100",
        "model": options.model,
        "batch_size": options.batch_size,
        "accelerator": options.device,
        "precision": options.precision,
        "channels_last": options.channels_last,
        "compile": options.compile,
        "cuda_graphs": options.cuda_graphs,
        "lr": 1e-3,  # the labels are random: the weights must stay finite
        "schedule": "constant",
    }
    return Config(**{**fields, **others})


def begin(options: argparse.Namespace, *packages: str) -> Record:
    """A record to enter, after machine and options have been printed; `packages` as for `this_machine`."""
    record = Record(options.json, vars(options), *packages)
    print("  ".join(f"{key}: {value}" for key, value in vars(options).items()), end="\n\n")
    return record
