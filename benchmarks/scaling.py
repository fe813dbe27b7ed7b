"""Our training loop over one and two processes: `python benchmarks/scaling.py [--device cuda ...] [--json FILE]`.

Every measurement is a launch of its own through torchrun, one process and two in turns, with the same number of images
per process and step (so twice the batch for two processes) and `--threads` CPU threads in each. Gradients are exchanged
by gloo between CPUs and by nccl between GPUs. On a machine with other work, the clock says little, and the processor's
time of a step says what the exchange adds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

import torch

from multimix.benchmarking import epoch, loop_options, own_loop
from multimix.benchmarking.measure import synchronize
from multimix.training.devices import connect, leave_process_group


def main() -> None:
    parser = loop_options.make_parser(__doc__)
    parser.add_argument("--method", default="erm")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps that a launch times")
    parser.add_argument("--rounds", type=int, default=5, help="launches of each")
    options = parser.parse_args()
    if "LOCAL_WORLD_SIZE" in os.environ:
        return measure(options)
    torch.set_num_threads(options.threads)
    with loop_options.begin(options) as record:
        launches: dict[int, list[tuple[float, float]]] = {count: [] for count in options.processes}
        for _ in range(options.rounds):
            for count in options.processes:
                launches[count].append(launched(count, options.threads))
        first = options.processes[0]
        rates = {
            count: [count * options.batch_size * options.steps / wall for wall, _ in times]
            for count, times in launches.items()
        }
        for count, times in launches.items():
            row = {
                "processes": count,
                "images_per_second": statistics.median(rates[count]),
                f"over_{first}": statistics.median(a / b for a, b in zip(rates[count], rates[first], strict=True)),
                "processor_ms_per_step": statistics.median(1e3 * processor / options.steps for _, processor in times),
                "rounds": [round(rate, 1) for rate in rates[count]],
            }
            record.add("scaling", row)
            print("  ".join(f"{k}: {v:.2f}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()))


def launched(count: int, threads: int) -> tuple[float, float]:
    """Seconds of the clock and of the first process's processor that the timed steps take with `count` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), *sys.argv]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        sys.exit(f"{count} processes failed:\n{done.stderr[-3000:]}")
    wall, processor = map(float, done.stdout.split()[-2:])
    return wall, processor


def measure(options: argparse.Namespace) -> None:
    """What each process does; the first prints the seconds."""
    whole = options.batch_size * int(os.environ["WORLD_SIZE"])
    config = loop_options.make_config(options, method=options.method, batch_size=whole)
    fabric = connect(config)
    fabric.launch()
    with ExitStack() as stack:
        advance = own_loop.training_loop(fabric, config, epoch.made_up(20 * config.batch_size, 100), stack)
        advance(max(5, options.steps // 3))
        fabric.barrier()
        wall, processor = time.perf_counter(), time.process_time()
        advance(options.steps)
        synchronize(str(fabric.device))
        if fabric.global_rank == 0:
            print(time.perf_counter() - wall, time.process_time() - processor)
    leave_process_group()


if __name__ == "__main__":
    main()
