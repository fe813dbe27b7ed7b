"""Checks of what users pass in: one clear error each, naming what was received, what was expected and the fix."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ._transforms import has_values, is_transformed

Alpha = float | tuple[float, float]

_ROUNDING = 0.01
"""How far below 0 the rest of probabilities that were taken from 1 may be, in bfloat16 too."""
_IGNORED = 255
"""Besides negative numbers, what stands for no label in maps of 8 bits."""


def check_alpha(alpha: Alpha) -> tuple[float, float]:
    """(low, high) of the Dirichlet concentration."""
    ends = tuple(alpha) if isinstance(alpha, (tuple, list)) else (alpha, alpha)
    if len(ends) != 2 or any(isinstance(a, bool) or not isinstance(a, numbers.Real) for a in ends):
        raise TypeError(f"alpha must be a number or a pair (low, high), got {alpha!r} ({type(alpha).__name__})")
    low, high = float(ends[0]), float(ends[1])
    if not (0 < low <= high < math.inf):
        raise ValueError(f"alpha must be positive and finite, with low <= high, got {alpha!r}")
    return low, high


def check_count(name: str, value: int, *, least: int = 1, most: int | None = None) -> int:
    """A whole number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < least or value > (most if most is not None else 2**63 - 1):
        bounds = f"at least {least}" if most is None and value < least else f"between {least} and {most or 2**63 - 1}"
        raise ValueError(f"{name} must be {bounds}, got {value}")
    return int(value)  # NumPy's too


def check_counts(name: str, values: int | Iterable[int], *, least: int = 1) -> tuple[int, ...]:
    """One or more whole numbers of at least `least`; a number stands for one of them."""
    several = tuple(values) if isinstance(values, Iterable) else (values,)
    if not several:
        raise ValueError(f"{name} must be one or more whole numbers, got none")
    return tuple(check_count(name, value, least=least) for value in several)


def check_positive(name: str, value: float) -> float:
    """A number above 0, such as a parameter of a Beta distribution."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def check_not_negative(name: str, value: float) -> float:
    """A number of at least 0, such as the weight of a term of a loss."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def check_share(name: str, value: float) -> float:
    """A number in [0, 1], such as a probability."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return float(value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """One of a few names."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_file(name: str, value: Path | str) -> Path | str:
    """The name of a file, and not what is in it."""
    if not isinstance(value, (str, os.PathLike)):
        fix = ": torch.save(...) makes one" if isinstance(value, (Tensor, dict)) else ""
        raise TypeError(f"{name} must be the name of a file, got {type(value).__name__}{fix}")
    return value


def check_tensor(name: str, value: object) -> Tensor:
    """A tensor, and not an array or a list of numbers."""
    if not isinstance(value, Tensor):
        several = hasattr(value, "keys")  # a dictionary, or what Hugging Face's models return
        fix = "pick one out, such as .logits or .last_hidden_state" if several else "torch.as_tensor(...) makes one"
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}: {fix}")
    return value


def check_floating(**tensors: object) -> None:
    """Tensors of floating point, by their names."""
    for name, value in tensors.items():
        tensor = check_tensor(name, value)
        if tensor.is_nested:
            raise TypeError(
                f"{name} must be one tensor with padding, got a nested one: {name}.to_padded_tensor(0.0) makes one, "
                "whose real positions DenseMultiMix takes as mask="
            )
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")


def by_position(targets: object) -> bool:
    """Whether there is a target for every position, and not one for all of an example's."""
    return isinstance(targets, Tensor) and targets.ndim > (2 if targets.is_floating_point() else 1)


def check_targets(
    targets: Tensor,
    b: int,
    c: int | None = None,
    *,
    beside: Tensor | None = None,
    positions: Sequence[int] = (),
) -> None:
    """Class indices (b,) or probabilities (b, c); told apart by dtype and number of dimensions.

    Args:
        beside: what they are used with, on the same device.
        positions: where given, targets may also be (*positions, b) or (*positions, b, c), every position's own.
    """
    if positions and by_position(targets):
        indices = (*positions, b)
        classes = (targets.shape[-1] if c is None else c,) if targets.is_floating_point() else ()
        if targets.shape != (*indices, *classes):
            raise ValueError(
                f"targets of every position, with the positions in front, are class indices {indices} or probabilities "
                f"{(*indices, 'classes' if c is None else c)}, got {targets.dtype} of shape {tuple(targets.shape)}"
            )
        targets, b = targets.flatten(0, len(positions)), math.prod(indices)
        unlabelled = "leave positions without a label out by mask=, False there; there is no ignore_index"
    else:
        unlabelled = "leave examples without a label out, there is no ignore_index"
    if not isinstance(targets, Tensor):
        raise TypeError(
            f"targets must be a tensor of class indices (b,) or probabilities (b, c), got {type(targets).__name__}: "
            "torch.as_tensor(...) makes one"
        )
    if beside is not None and targets.device != beside.device:
        raise ValueError(
            f"targets are on {targets.device}, what they go with is on {beside.device}: move them, "
            f"targets.to({str(beside.device)!r})"
        )
    if targets.is_floating_point():
        if targets.ndim != 2 or targets.shape[0] != b or (c is not None and targets.shape[1] != c):
            expected = f"({b}, {'classes' if c is None else c})"
            raise ValueError(
                f"floating-point targets are class probabilities of shape {expected}, got {tuple(targets.shape)}"
                + ("; for class indices use an integer dtype" if targets.ndim == 1 else "")
            )
        if _readable(targets) and targets.numel() and (low := targets.detach().amin()) < -_ROUNDING:
            raise ValueError(
                f"floating-point targets are class probabilities, which are at least 0, got {float(low):.4g}: of the "
                "logits of a teacher, say, give .softmax(-1)"
            )
        return
    if targets.dtype == torch.bool or targets.is_complex():
        fix = ": targets.long() for class indices, targets.float() for probabilities"
        raise TypeError(
            f"targets must be integers or floating point, got {targets.dtype}{'' if targets.is_complex() else fix}"
        )
    if targets.ndim != 1 or targets.shape[0] != b:
        raise ValueError(
            f"integer targets are class indices of shape ({b},), got {tuple(targets.shape)}" + _hint(targets)
        )
    if c is not None and b and _readable(targets):
        low, high = targets.long().aminmax()
        if low < 0 or high >= c:
            raise ValueError(
                f"class indices must be in [0, {c - 1}] for {c} classes, got values in [{int(low)}, {int(high)}]"
                + (f"; {unlabelled}" if low < 0 or high == _IGNORED else "")
            )


def _readable(targets: Tensor) -> bool:
    """Whether values may be looked at: those on an accelerator would stall it. There the kernels check indices, and
    nobody probabilities."""
    return targets.device.type == "cpu" and not torch.compiler.is_compiling() and has_values(targets)


def _hint(targets: Tensor) -> str:
    if targets.ndim != 2:
        return ""
    one_column = targets.shape[1] == 1
    return "; give targets.squeeze(1)" if one_column else "; for one-hot targets use a floating-point dtype"


def check_pixels(images: Tensor) -> None:
    """Pixels in floating point; their range is not looked at."""
    check_tensor("images", images)
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point pixels in [0, 1], got {images.dtype}: divide them by 255")


def check_images(images: Tensor) -> None:
    """Images (b, channels, height, width)."""
    check_tensor("images", images)
    if images.ndim != 4:
        raise ValueError(f"images must be (b, channels, height, width), got shape {tuple(images.shape)}")


def check_some_images(images: Tensor) -> None:
    """Images or features (b, ...), at least one."""
    check_tensor("images", images)
    if images.ndim < 2 or images.shape[0] == 0:
        raise ValueError(f"images must be (b, ...) with at least one example, got shape {tuple(images.shape)}")


def as_target(targets: Tensor) -> Tensor:
    """Targets (b,) or (b, c) as PyTorch's cross entropy takes them: class indices of two integer types only."""
    return targets if targets.is_floating_point() else targets.long()


def as_probabilities(targets: Tensor, c: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Targets (b,) or (b, c) as probabilities (b, c); with positions in front, where they have some."""
    if targets.is_floating_point():
        return targets.to(dtype)
    if is_transformed():  # `one_hot` looks at the values, which vmap forbids
        return (targets[..., None] == torch.arange(c, device=targets.device)).to(dtype)
    return torch.nn.functional.one_hot(targets.long(), c).to(dtype)


def mixing_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Mixed points lie close to the mean of the batch, so mixing is done in float32, or in float64 if any has that."""
    return torch.float64 if torch.float64 in dtypes else torch.float32
