"""The loss against the direct form: `python benchmarks/loss.py [--n 1000] [--device cuda] [--json FILE]`."""

import sys

from multimix.cli.bench import main

main(sys.argv[1:])
