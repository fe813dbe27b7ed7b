"""Tensors that are not just numbers: with derivatives that the fused operators do not know (forward-mode ones, the
transforms of torch.func), or of a shape alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad

P = ParamSpec("P")
R = TypeVar("R")


def is_transformed() -> bool:
    """Whether a transform of torch.func is under way."""
    return torch._C._are_functorch_transforms_active()


def is_shape(tensor: Tensor) -> bool:
    """Whether nothing but shapes is computed: on the device "meta" and in `FakeTensorMode`, as tools that plan memory
    or count operations do."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def has_values(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at."""
    return not (is_transformed() or is_shape(tensor))


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Where `tensor` is, operations keep the types they are given; the device "meta" knows no autocast."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def needs_formula(*tensors: Tensor | None) -> bool:
    """Whether derivatives are under way that only a loss written in PyTorch's own operations has.

    A custom operator has a rule for the backward pass alone: a tangent would be lost in it, silently.
    """
    if torch.compiler.is_compiling():  # asking for other transforms would be an operation of the graph
        return forward_ad._current_level >= 0
    return is_transformed() or any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def refuse_transforms(implementation: str) -> NoReturn:
    """The error for an implementation that was asked for by name."""
    raise ValueError(
        f"implementation={implementation!r} has no forward-mode derivative and does not work under transforms of "
        "torch.func: use 'auto' or 'reference'"
    )


def asked_once(function: Callable[P, R]) -> Callable[P, R]:
    """For what the compiler would trace into, such as the search for a C compiler, which breaks its graph.

    It is `torch._dynamo.assume_constant_result`, without importing the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
