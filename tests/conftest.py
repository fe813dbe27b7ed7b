"""Shared by all tests."""

import os

import torch
import tyro  # noqa: F401  (its import fails once a doctest has left an unhashable value in builtins._)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores already
