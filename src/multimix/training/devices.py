"""Devices and processes: what Lightning Fabric connects, and how the ranks agree."""

from __future__ import annotations

import gc
import os
import re
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from ..extras import require
from ..machine import fastest_device, usable_cuda
from .config import Config

if TYPE_CHECKING:
    from lightning_fabric import Fabric

if dist.is_available():
    # Imported once a process group exists, as torch.compile and DistributedDataParallel do, it keeps the group in its
    # default arguments: the group's threads then outlive it, and may abort the program's end.
    import torch.distributed.nn

LAUNCHERS = ("MASTER_ADDR", "NODE_RANK", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE")
"""Variables of the environment by which processes on several nodes find each other."""

__all__ = ["Ranks", "check_device", "connect", "default_device", "leave_process_group", "use_device"]


def connect(config: Config) -> Fabric:
    """A Fabric for the accelerator, devices, nodes and precision of `config`, not launched yet.

    Under torchrun the number of devices and nodes is torchrun's.

    Raises:
        ValueError: the machine does not have what was asked for.
        ImportError: Lightning Fabric is not installed.
    """
    fabric = require("lightning_fabric", "train")
    devices, nodes = config.devices, config.nodes
    if dist.is_available() and dist.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif nodes > 1 and not any(name in os.environ for name in LAUNCHERS):
        raise ValueError(
            f"nodes={nodes}, but this process knows of no other node: start it by torchrun on every node, as "
            "docs/training.md shows"
        )
    accelerator = fastest_device() if config.accelerator == "auto" else config.accelerator
    several = devices * nodes > 1
    alone = accelerator == "cuda" and not several and torch.cuda.is_available()
    try:
        made: Fabric = fabric.Fabric(
            accelerator=accelerator,
            # Not the first, where `--device cuda:1` was asked for.
            devices=[torch.cuda.current_device()] if alone else devices,
            num_nodes=nodes,
            strategy=_distributed_strategy() if several else "auto",
            plugins=[_precision(config.precision, accelerator), *_environment(several)],
        )
    except (RuntimeError, fabric.utilities.exceptions.MisconfigurationException) as error:
        raise ValueError(
            f"cannot use accelerator={accelerator!r} with devices={config.devices}: {error} "
            "Choose accelerator='auto' or 'cpu', or fewer devices"
        ) from error
    if config.cuda_graphs and made.device.type != "cuda":
        raise ValueError(f"cuda_graphs needs a CUDA device, got accelerator={accelerator!r}: leave cuda_graphs off")
    return made


def _environment(several: bool) -> list[Any]:
    """One process alone needs no search for launchers, which fails where mpi4py is without its library."""
    if several or (dist.is_available() and dist.is_torchelastic_launched()):
        return []
    return [require("lightning_fabric.plugins.environments", "train").LightningEnvironment()]


def default_device(config: Config) -> Literal["cpu", "cuda"]:
    """Where a run of `config` is evaluated: on the GPU unless there is none, or it asked for the CPU."""
    return fastest_device() if config.accelerator in ("auto", "cuda") else "cpu"


def check_device(name: str) -> None:
    """Raise ValueError if this machine has no device `name`, before hours of work fail there.

    >>> check_device("cpu")
    """
    # PyTorch takes cpu:NUMBER too, and every number for the same processors.
    if not re.fullmatch("cpu|cuda(:(0|[1-9][0-9]*))?", name):
        raise ValueError(f"--device must be cpu, cuda or cuda:NUMBER, got {name!r}")
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= count:
        raise ValueError(
            f"--device {name}: PyTorch finds {count or 'no'} CUDA device{'s' * (count != 1)} here: use --device cpu"
            f"{f', or up to cuda:{count - 1}' if count else ', or a build of PyTorch with CUDA'}"
        )


def use_device(name: str) -> None:
    """Make a device the current one, on which libraries seed and allocate.

    Raises:
        ValueError: this machine does not have it, or this build of PyTorch has no code for it.
    """
    check_device(name)
    if name == "cpu":
        return
    torch.cuda.set_device(int(name.partition(":")[2] or 0))
    if not usable_cuda():
        raise ValueError(
            f"--device {name}: this build of PyTorch has no code for {torch.cuda.get_device_name()}: use --device cpu, "
            "or a build for this GPU"
        )


def _precision(precision: str, device: str) -> Any:
    plugins = require("lightning_fabric.plugins", "train")
    if precision == "64-true":
        return plugins.DoublePrecision()
    if precision == "32-true":
        return plugins.Precision()

    class Mixed(plugins.MixedPrecision):  # type: ignore[misc, name-defined]
        # Fabric would round the images to half precision before the method sees them; autocast rounds them where
        # the network needs it, after they have been mixed and normalised in float32.
        def convert_input(self, data: Any) -> Any:
            return data

    return Mixed(precision, device)


def _distributed_strategy() -> Any:
    strategies = require("lightning_fabric.strategies", "train")

    class Distributed(strategies.DDPStrategy):  # type: ignore[misc, name-defined]
        # Only a method with parameters of its own may leave some unused in a step; looking for them costs time.
        def setup_module(self, module: nn.Module) -> nn.Module:
            own = any(parameter.requires_grad for parameter in getattr(module, "method").parameters())  # noqa: B009
            self._ddp_kwargs["find_unused_parameters"] = own
            wrapped: nn.Module = super().setup_module(module)
            return wrapped

    return Distributed()


class Ranks:
    """What the processes of a run tell each other, on the host, so that no device is kept waiting.

    Make it after `fabric.launch()`, on every rank.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank = fabric.global_rank
        self.size = fabric.world_size
        self.group: dist.ProcessGroup | None = None
        if self.size > 1:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)
            self.group = group
        self._posted: tuple[torch.Tensor, Any] | None = None

    def agree(self, *flags: float) -> list[float]:
        """The maximum over ranks of each flag posted by the previous call (with one process: of this call).

        All ranks get the same answer at the same call, so they can act on it together; answering one call late
        lets the exchange overlap with the step in between.
        """
        if self.group is None:
            return list(flags)
        answer = self.settle() or [0.0] * len(flags)
        tensor = torch.tensor(flags, dtype=torch.float64)
        self._posted = tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group, async_op=True)
        return answer

    def settle(self) -> list[float] | None:
        """The answer to the last `agree`, if it is outstanding; every rank must call it at the same point."""
        if self._posted is None:
            return None
        tensor, work = self._posted
        work.wait()
        self._posted = None
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order, on every rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        if self.group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0 (each rank has batch statistics of its own share)."""
        if self.group is not None:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)


def leave_process_group() -> None:
    """At the end of a program: a process that exits with its group alive may be aborted by the group's threads."""
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # models that took part in cycles, and hold the group
        dist.destroy_process_group()
