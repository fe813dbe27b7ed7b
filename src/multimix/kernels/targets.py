"""Products with the targets of a mini-batch, which class indices make lookups.

Shape suffixes: P positions, B batch, C classes.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


class Targets:
    """Class indices (b,) or probabilities (b, c), in the dtype of what they are multiplied with.

    On a device indices cannot be checked without waiting for it, so they are looked up by operations that do not take
    negative ones to count from the end.
    """

    def __init__(self, targets: Tensor, c: int, dtype: torch.dtype) -> None:
        self.c, self.dtype = c, dtype
        self.soft = targets.is_floating_point()
        self.given = targets.to(dtype) if self.soft else targets.long()

    @functools.cached_property
    def y_BC(self) -> Tensor:
        """As probabilities."""
        return self.given if self.soft else torch.nn.functional.one_hot(self.given, self.c).to(self.dtype)

    @functools.cached_property
    def mass_B(self) -> Tensor:
        """What each target sums to."""
        return self.given.sum(1) if self.soft else torch.ones_like(self.given, dtype=self.dtype)

    @functools.cached_property
    def row_B(self) -> Tensor:
        return torch.arange(len(self.given), device=self.given.device)

    @property
    def summed(self) -> bool:
        """Whether mixed targets are sums of weights: of class indices, where examples of one class are added in order,
        as they are on the CPU alone."""
        return not self.soft and self.given.device.type == "cpu"

    def mixed(self, lam: Tensor, out: Tensor) -> Tensor:
        """lam Y, (..., N, B) -> (..., N, C), into `out`."""
        if self.summed:
            return out.zero_().scatter_add_(-1, self.given.expand_as(lam), lam)
        return torch.matmul(lam, self.y_BC, out=out)

    def weighted_by_mass(self, weight: Tensor) -> Tensor:
        """(..., B), times what each target sums to."""
        return weight * self.mass_B if self.soft else weight

    def of(self, values_PBC: Tensor) -> Tensor:
        """y_i . values_i, (P, B)."""
        if self.soft:
            return torch.einsum("bc,pbc->pb", self.y_BC, values_PBC)
        given_PB1 = self.given[None, :, None].expand(len(values_PBC), -1, 1)
        return values_PBC.gather(2, given_PB1).squeeze(2)

    def of_classes(self, values: Tensor) -> Tensor:
        """y_i . values, (..., C) -> (..., B)."""
        if self.soft:
            return values @ self.y_BC.T
        return values.gather(-1, self.given.expand(*values.shape[:-1], -1))

    def to_classes(self, weight: Tensor) -> Tensor:
        """sum_i weight_i y_i, (..., B) -> (..., C)."""
        if self._by_matrix(weight):
            return weight @ self.y_BC
        return weight.new_zeros(*weight.shape[:-1], self.c).scatter_add_(-1, self.given.expand_as(weight), weight)

    def subtract_classes(self, from_: Tensor, weight: Tensor) -> None:
        """`to_classes(weight)`, in place."""
        if self._by_matrix(weight):
            from_.sub_(weight @ self.y_BC)
        else:
            from_.scatter_add_(-1, self.given.expand_as(weight), -weight)

    def subtract(self, from_PBC: Tensor, weight_PB: Tensor) -> None:
        """weight_i y_i of every example, in place."""
        if self.soft:
            from_PBC.addcmul_(weight_PB[..., None], self.y_BC, value=-1)
        else:
            from_PBC[:, self.row_B, self.given] -= weight_PB

    def _by_matrix(self, weight: Tensor) -> bool:
        # scatter_add_ adds examples of one class in any order on a GPU, which rounds differently every time.
        return self.soft or weight.device.type != "cpu"
