"""A pretended accelerator, to find on the CPU what would fail or stall on a GPU.

Tensors there say that their device is "cuda:0" and hold a tensor of the CPU. An operation that mixes them with tensors
of the CPU raises, as it would on a GPU; what would make the host wait for the device is written down.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class Remote(Tensor):
    """A tensor on the pretended accelerator."""

    held: Tensor
    device = property(lambda self: DEVICE)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> Remote:
        # On the CPU for autograd, whose engine has no threads for a device that is not there.
        remote: Remote = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        remote.held = held
        return remote

    def __deepcopy__(self, memo: object) -> Tensor:
        copied = Remote(self.held.detach().clone())
        return nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func._schema.name, dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        # A tensor of no dimension is a number. What autograd makes by itself has no place in the program.
        if any(x.ndim and not isinstance(x, Remote) for x in tensors) and name != "aten::copy_" and (place := _place()):
            raise RuntimeError(f"{name} of tensors on different devices, at {place}")
        if name in READS or (name in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])):
            Accelerator.waits.append(f"{name} at {_place()}")
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        held_args, held_kwargs = tree_map(_held, (args, kwargs))
        out = func(*held_args, **held_kwargs)
        if func._schema.is_mutable and name.endswith("_"):
            return None if out is None else args[0]
        return tree_map(_remote, out)


class Accelerator(TorchFunctionMode):
    """In this context the pretended accelerator can be named: `.to(DEVICE)`, `device=images.device`."""

    waits: ClassVar[list[str]] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch._C._nn._parse_to:
            return func(*args, **kwargs)
        if func is nn.functional.one_hot and isinstance(args[0], Remote):  # it makes a tensor inside
            return Remote(func(args[0].held, *args[1:], **kwargs))
        if func in (Tensor.cpu, Tensor.tolist) and isinstance(args[0], Remote):
            return func(_fetch(args[0]))
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if _names(kwargs.get("device")) and not any(isinstance(x, Remote) for x in tree_leaves((args, kwargs))):
            if kwargs.get("generator") is not None:
                raise RuntimeError(f"a generator of the CPU on the accelerator, at {_place()}")
            return Remote(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def move(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the pretended accelerator."""
    for part in module.modules():
        for name, value in [*part._parameters.items(), *part._buffers.items()]:
            if value is None or isinstance(value, Remote):
                continue
            if name in part._parameters:
                part._parameters[name] = nn.Parameter(Remote(value.data), value.requires_grad)
            else:
                part._buffers[name] = Remote(value)
    return module


def module_to(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`nn.Module.to`, which knows the pretended accelerator."""

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        return move(self) if any(map(_names, [*args, *kwargs.values()])) else original(self, *args, **kwargs)

    return to


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    like = [a for a in args if isinstance(a, Tensor)]
    wanted = [*args, *kwargs.values()]
    dtypes = [a for a in wanted if isinstance(a, torch.dtype)] + [a.dtype for a in like]
    there = any(map(_names, wanted)) or any(isinstance(a, Remote) for a in like)
    here = any(_names(a, "cpu") for a in wanted) or any(not isinstance(a, Remote) for a in like)
    if isinstance(x, Remote) and here:
        x = _fetch(x)
    elif not isinstance(x, Remote) and there:
        x = Remote(x.detach())
    return x.type(dtypes[0]) if dtypes and dtypes[0] != x.dtype else x


def _fetch(x: Remote) -> Tensor:
    Accelerator.waits.append(f"a copy to the host at {_place()}")
    return x.held.detach().clone()


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Remote) else x


def _remote(x: Any) -> Any:
    return Remote(x) if isinstance(x, Tensor) else x


def _names(value: Any, kind: str = DEVICE.type) -> bool:
    return isinstance(value, (torch.device, str)) and torch.device(value).type == kind


def _place() -> str:
    """The innermost line of the library that is being run, or nothing."""
    frames = (frame for frame in reversed(traceback.extract_stack()) if "/src/multimix/" in frame.filename)
    frame = next(frames, None)
    return "" if frame is None else f"{frame.filename.rpartition('/src/')[2]}: {frame.line}"
