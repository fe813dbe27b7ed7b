"""The machine that this runs on: its name and versions in results, and whether PyTorch can use its GPU."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

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


def versions(*packages: str) -> dict[str, str]:
    """Of Python, of PyTorch, and of those of `packages` that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def this_machine(*packages: str) -> dict[str, str]:
    """Processor, accelerator, threads and versions, as every recorded result states them.

    Args:
        packages: further ones whose versions matter, where they are installed.
    """
    found = {
        "cpu": cpu_name(),
        "threads": str(torch.get_num_threads()),
        **versions(*packages),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def fastest_device() -> Literal["cpu", "cuda"]:
    """A GPU that PyTorch can use, or else the CPU.

    Not Apple's GPUs: they have no float64, which evaluation counts in, and nothing has been tried there.
    """
    return "cuda" if usable_cuda() else "cpu"


def usable_cuda() -> bool:
    """Whether there is a GPU that this build of PyTorch has code for: builds leave old ones out, which are there all
    the same until the first operation fails."""
    if not torch.cuda.is_available():
        return False
    if torch.version.cuda is None:  # ROCm, which numbers its devices otherwise
        return True
    major, minor = torch.cuda.get_device_capability()
    built_for = [name.split("_") for name in torch.cuda.get_arch_list()]
    for kind, number in built_for:
        least = int(number.rstrip("af"))
        # Machine code runs within its major version; what is for "compute" is compiled for any newer device.
        if least <= 10 * major + minor and (kind == "compute" or least // 10 == major):
            return True
    return not built_for
