"""Shared by all tests."""

import contextlib
import multiprocessing
import os
import zlib
from collections.abc import Iterator

import pytest
import torch
from tests.methods.accelerator import Accelerator, module_to
from torch import nn

with contextlib.suppress(ModuleNotFoundError):  # the tests of the kernels do without
    import tyro  # noqa: F401  (its import fails once a doctest has left an unhashable value in builtins._)

# Here, since any test may be the first to start the server of forks, and what it has not imported, every fork will.
multiprocessing.set_forkserver_preload(
    ["lightning_fabric", "sklearn.datasets", "torch", "torch.utils.tensorboard", "multimix.cli.workers"]
)

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores already
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """What a test draws from the global generator depends on its name, not on the tests before it in the process."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def accelerator(monkeypatch) -> Iterator[list[str]]:
    """The pretended accelerator, and where the host has waited for it."""
    monkeypatch.setattr(nn.Module, "to", module_to(nn.Module.to))
    Accelerator.waits.clear()
    with Accelerator():
        yield Accelerator.waits
