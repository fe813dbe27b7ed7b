"""`multimix bench`: measure the loss on this machine; `multimix bench methods`: the training step of methods."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..benchmarking import loss
from ..benchmarking.measure import hardware


def main(argv: list[str]) -> None:
    """Print the table as it is measured; write it as JSON where asked to."""
    if argv[:1] == ["methods"]:
        from . import bench_methods

        return bench_methods.main(argv[1:])
    parser = argparse.ArgumentParser(
        prog="multimix bench",
        description="The loss (sampling, forward, backward) against the direct form: mix embeddings, classify, cross "
        "entropy. Both run in turns in this process; the ratio is the median over rounds. `multimix bench methods` "
        "measures whole training steps of any methods on any network instead.",
    )
    parser.add_argument("--n", type=int, default=1000, help="mixed examples (default 1000)")
    parser.add_argument("--b", type=int, default=128, help="mini-batch size (default 128)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the small sizes (default 15)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    options = parser.parse_args(argv)
    machine = hardware()
    print("  ".join(f"{key}: {value}" for key, value in machine.items()))
    print(f"n={options.n} b={options.b} device={options.device}, float32, alpha ~ U[0.5, 2]; milliseconds and MiB\n")
    head = f"{'d':>5} {'c':>5} {'r':>3} {'direct':>9} {'ours':>9} {'speedup':>8} {'direct MiB':>11} {'ours MiB':>9}"
    print(head)
    rows = []
    for row in loss.run(n=options.n, b=options.b, rounds=options.rounds, device=options.device):
        rows.append(row._asdict())
        print(
            f"{row.d:>5} {row.c:>5} {row.r:>3} {row.direct_ms:>9.2f} {row.ours_ms:>9.2f} {row.speedup:>7.1f}x "
            f"{row.direct_mib:>11.1f} {row.ours_mib:>9.1f}"
        )
        sys.stdout.flush()
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({"machine": machine, "loss": rows}, indent=2) + "\n")
