"""The machine that this runs on: its name in results, and whether PyTorch can use its GPU."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def cpu_name() -> str:
    """The model of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def usable_cuda() -> bool:
    """Whether there is a GPU that this build of PyTorch has code for: builds leave old ones out, which are there all
    the same until the first operation fails."""
    if not torch.cuda.is_available():
        return False
    if torch.version.cuda is None:  # ROCm, which numbers its devices otherwise
        return True
    built_for = [int(name[3:].rstrip("af")) for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor >= min(built_for, default=0)
