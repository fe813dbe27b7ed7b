"""The sampler against PyTorch's: `python benchmarks/sampler.py [--threads 1 2] [--rounds 15] [--json FILE]`.

Prints nanoseconds per weight and the ratio for fixed alpha and for alpha ~ U[0.5, 2] (n=1000, b=128, r=4), for every
number of threads. On one thread the time is the processor's, on more the clock's, so that other programs slow down
only the latter. Under a minute on two idle cores.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import torch

from multimix.benchmarking import sampler
from multimix.benchmarking.measure import hardware
from multimix.training.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        rows: list[dict[str, object]] = []
        tables.append({"machine": hardware(), "rows": rows})
        print(f"\n{threads} thread(s): ns per weight\n{'alpha':>12} {'PyTorch':>9} {'ours':>7} {'PyTorch / ours':>22}")
        wall, processor = time.perf_counter(), time.process_time()
        for row in sampler.run(rounds=options.rounds, device=options.device):
            rows.append({**asdict(row), "faster": row.faster._asdict()})
            faster = row.faster.text(".2f")
            print(f"{row.alpha!s:>12} {row.pytorch_ns:>9.2f} {row.ours_ns:>7.2f} {faster:>22}", flush=True)
            if options.json is not None:
                write_json(options.json, {"sampler": tables})
        used = (time.process_time() - processor) / (time.perf_counter() - wall)
        tables[-1]["processors_used"] = round(used, 2)
        print(f"processor time over wall-clock time: {used:.2f}")
    if options.json is not None:
        write_json(options.json, {"sampler": tables})


if __name__ == "__main__":
    main()
