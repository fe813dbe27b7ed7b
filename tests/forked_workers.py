"""The workers of `multimix compare` and the like at the price of a fork instead of all their imports.

Real workers are spawned, as those of `tests/cli/test_compare.py` (Ctrl-C) and `tests/cli/test_readme.py` are.
"""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace

import pytest

from multimix.cli import workers

IMPORTS = ["lightning_fabric", "sklearn.datasets", "torch", "torch.utils.tensorboard", "multimix.cli.workers"]


def fork_workers(patch: pytest.MonkeyPatch) -> None:
    """Start workers from a server that has imported everything once, in this process and until `patch` is undone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    stand_in = SimpleNamespace(get_context=lambda method: context, get_start_method=multiprocessing.get_start_method)
    patch.setattr(workers, "multiprocessing", stand_in)
