# mypy: disable-error-code="no-untyped-def, import-untyped"
"""What the kernels of the limit n -> infinity share: where numbers are, and the mixed logits of a tile.

See `triton_closed_form`, whose shape suffixes these are.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from . import triton_draw
from .closed_form_kernel import Given
from .triton_launch import WIDEST_TILE, Tile

_INTERPRETED = tl.constexpr(triton_draw.INTERPRETED)
LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
# The logarithm of a probability of 0, finite so that 0 times it is 0.
NEVER = tl.constexpr(-1e30)
# `functional.closed_form.nearly_nothing(torch.float32)`
NEARLY_NOTHING = tl.constexpr(torch.finfo(torch.float32).eps ** 2)

_WIDEST = tl.constexpr(WIDEST_TILE)

# Rows of `Given.examples`, before t at the nodes.
PI, PI_RHO, SPREAD, OWN, OF_MEAN, OF_BETA, TS = (tl.constexpr(row) for row in range(7))
# Rows of `Found.columns`, before the spread at the nodes.
MU, BETA, V, HIGHEST, TIES, SPREADS = (tl.constexpr(row) for row in range(6))


@triton.jit
def this_tile(tiles, BB: tl.constexpr, BC: tl.constexpr):
    """Position, examples and classes of this program."""
    tile = tl.program_id(0) % tiles
    return tl.program_id(0) // tiles, tl.arange(0, BB), tile * BC + tl.arange(0, BC)


@triton.jit
def places(position, examples_B, classes_C, stride_r, stride_b, ALIGN: tl.constexpr):
    """Where the logits of this program are. Strides, and the number of classes, come divided by ALIGN, so that the
    compiler sees what they are multiples of: without that, loads are of single numbers."""
    rows_B = position.to(tl.int64) * (stride_r.to(tl.int64) * ALIGN)
    rows_B += examples_B.to(tl.int64) * (stride_b.to(tl.int64) * ALIGN)
    return rows_B[:, None] + classes_C[None, :]


@triton.jit
def inside(examples_B, classes_C, b, c):
    return (examples_B < b)[:, None] & (classes_C < c)[None, :]


@triton.jit
def targets_of(targets_ptr, examples_B, classes_C, b, c, SOFT: tl.constexpr):
    """y, or where it is 1."""
    if SOFT:
        places_BC = (examples_B.to(tl.int64) * c)[:, None] + classes_C[None, :]
        return tl.load(targets_ptr + places_BC, mask=inside(examples_B, classes_C, b, c), other=0.0)
    else:
        index_B = tl.load(targets_ptr + examples_B, mask=examples_B < b, other=-1).to(tl.int32)
        return index_B[:, None] == classes_C[None, :]


@triton.jit
def weighted(y_BC, weight_B, SOFT: tl.constexpr):
    if SOFT:
        return weight_B[:, None] * y_BC
    else:
        return tl.where(y_BC, weight_B[:, None], 0.0)


@triton.jit
def of_examples(ptr, position, rows, row, examples_B, b):
    """(B,) of (R, rows, b); 0 for what is padded."""
    return tl.load(ptr + (position.to(tl.int64) * rows + row) * b + examples_B, mask=examples_B < b, other=0.0)


@triton.jit
def lse_of(lse_ptr, position, K, k, examples_B, b):
    """For what is padded, such that its softmax is 0: with 0 in its place that could be infinite."""
    lse_B = of_examples(lse_ptr, position, K, k, examples_B, b)
    return tl.where(examples_B < b, lse_B, -NEVER)


@triton.jit
def of_classes(ptr, position, rows: tl.constexpr, row: tl.constexpr, classes_C, width):
    """Where the (C,) of a (R, rows, width) are."""
    return ptr + (position.to(tl.int64) * rows + row) * width + classes_C


@triton.jit
def padded(c):
    """Of rows of classes: whole tiles, whatever their size."""
    return (c + _WIDEST - 1) // _WIDEST * _WIDEST


@triton.jit
def mass_of(mass_ptr, examples_B, b, SOFT: tl.constexpr):
    if SOFT:
        return tl.load(mass_ptr + examples_B, mask=examples_B < b, other=0.0)
    else:
        return tl.where(examples_B < b, 1.0, 0.0)


@triton.jit
def node(given_ptr, scalars_ptr, position, examples_B, b, k, K: tl.constexpr):
    """u, what multiplies pi in a, and t of the examples."""
    t_B = of_examples(given_ptr, position, TS + K, TS + k, examples_B, b)
    scalars_ptr += position * (2 * K + 1)
    return tl.load(scalars_ptr + k), tl.load(scalars_ptr + K + k), t_B


@triton.jit
def excess(
    logits_ptr, given_ptr, mean_lse_ptr, q_ptr, columns_ptr, position, examples_B, classes_C,
    b, c, width, stride_r, stride_b, K: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """x, and what else all kernels after the mean need: pi, and in units of log2: log p and beta."""
    places_BC = places(position, examples_B, classes_C, stride_r, stride_b, ALIGN)
    pi_B = of_examples(given_ptr, position, TS + K, PI, examples_B, b)
    attended_BC = (pi_B > 0.0)[:, None] & (classes_C < c)[None, :]
    logits_BC = tl.load(logits_ptr + places_BC, mask=attended_BC, other=0.0).to(tl.float32)
    q_B = of_examples(q_ptr, position, 1, 0, examples_B, b)
    mu_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, MU, classes_C, width))
    beta_C = tl.load(of_classes(columns_ptr, position, SPREADS + K, BETA, classes_C, width))
    x_BC = tl.where((pi_B > 0.0)[:, None], logits_BC - mu_C[None, :] - q_B[:, None], 0.0)
    log_p_C = tl.where(classes_C < c, mu_C - tl.load(mean_lse_ptr + position), NEVER)
    return x_BC, pi_B, log_p_C * LOG2_E, beta_C * LOG2_E


@triton.jit
def quotient(x, y):
    """By the device's special function unit: to 2 units in the last place, in a fifth of the instructions."""
    if _INTERPRETED:
        return x / y
    else:
        return libdevice.fast_dividef(x, y)


@triton.jit
def mixed(x_BC, log_p_C, beta_C, spread_C, t_B, u):
    """Mixed logits; but for x, all in units of log2."""
    raised_BC = (1.0 - t_B)[:, None] * spread_C[None, :] - (u * beta_C)[None, :]
    return x_BC * (t_B * LOG2_E)[:, None] + log_p_C[None, :] + (1.0 - t_B)[:, None] * raised_BC


class Sizes:
    """What all kernels over tiles are launched with."""

    def __init__(self, logits: Tensor, targets: Tensor, given: Given, tile: Tile, *written: Tensor) -> None:
        R, B, C = logits.shape
        self.tiles = triton.cdiv(C, tile.BC)
        self.grid = (R * self.tiles,)
        # With loads of more numbers at once, what belongs to classes would take more registers than there are.
        align = 4
        while any(
            each.data_ptr() % (align * each.element_size()) or any(size % align for size in (C, *each.stride()[:2]))
            for each in (logits, *written)
        ):
            align //= 2
        self.numbers = B, C // align, self.tiles, logits.stride(0) // align, logits.stride(1) // align
        soft = targets.is_floating_point()
        self.targets = (targets.to(torch.float32) if soft else targets).contiguous()
        self.mass = self.targets.sum(1) if soft else given.scalars  # which class indices leave unread
        self.meta = {
            "K": (given.scalars.shape[1] - 1) // 2, "SOFT": soft, "ALIGN": align,
            "BB": tile.BB, "BC": tile.BC, "num_warps": tile.warps,
        }  # fmt: skip
