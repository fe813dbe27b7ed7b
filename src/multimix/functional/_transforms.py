"""Derivatives that the fused operators do not know: forward-mode ones, and the transforms of torch.func."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of torch.func is under way."""
    return torch._C._are_functorch_transforms_active()


def needs_formula(*tensors: Tensor | None) -> bool:
    """Whether derivatives are under way that only a loss written in PyTorch's own operations has.

    A custom operator has a rule for the backward pass alone: a tangent would be lost in it, silently.
    """
    if torch.compiler.is_compiling():
        return False
    return is_transformed() or any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def refuse_transforms(implementation: str) -> NoReturn:
    """The error for an implementation that was asked for by name."""
    raise ValueError(
        f"implementation={implementation!r} has no forward-mode derivative and does not work under transforms of "
        "torch.func: use 'auto' or 'reference'"
    )
