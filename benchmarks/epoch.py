"""Epochs a minute: `python benchmarks/epoch.py [--model preactresnet18 --device cuda ...] [--json FILE]`.

Our training loop against the network alone, a plain DataLoader loop, timm's training step with its mixup, and the
package `mixup` (where it is installed: pip install mixup), in turns in one process, on random images of CIFAR's shape.
"""

import torch

from multimix.benchmarking import epoch, loop_options
from multimix.benchmarking.measure import clock


def main() -> None:
    parser = loop_options.make_parser(__doc__)
    parser.add_argument("--workers", type=int, default=2, help="loading processes of the others; ours has none")
    parser.add_argument("--examples", type=int, default=50_000, help="images of an epoch")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--methods", default="erm,input-mixup,multimix")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of a turn")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.clock = clock(options.device, alone=options.workers == 0).__name__
    with loop_options.begin(options, "timm", "torchvision", "mixup") as record:
        print(
            f"{'loop':<15} {'method':<12} {'images/s':>9} {'epochs/min':>10}  ours / this [95% interval of the median]"
        )
        for row in epoch.run(
            loop_options.make_config(options, workers=options.workers, epochs=1),
            epoch.made_up(options.examples, options.classes),
            chosen=options.methods.split(","),
            steps=options.steps,
            rounds=options.rounds,
            say=print,
        ):
            record.add("epoch", row)
            faster = "" if row.ours_is_faster is None else row.ours_is_faster.text(".2f")
            line = f"{row.loop:<15} {row.method:<12} {row.images_per_second:>9.0f} {row.epochs_per_minute:>10.3f}"
            print(f"{line}  {faster}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
