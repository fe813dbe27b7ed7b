"""Products with the targets of a mini-batch, which class indices make lookups.

Shape suffixes: P positions, B batch, C classes.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..functional._checks import by_position


class Targets:
    """Class indices (b,) or probabilities (b, c), in the dtype of what they are multiplied with; or of every position
    its own, (p, b) or (p, b, c), beside weights and values that have the positions in front.

    On a device indices cannot be checked without waiting for it, so they are looked up by operations that do not take
    negative ones to count from the end.
    """

    def __init__(self, targets: Tensor, c: int, dtype: torch.dtype) -> None:
        self.c, self.dtype = c, dtype
        self.soft = targets.is_floating_point()
        self.given = targets.to(dtype) if self.soft else targets.long()

    def at(self, where: slice) -> Targets:
        """Those of some positions."""
        return Targets(self.given[where], self.c, self.dtype) if by_position(self.given) else self

    @functools.cached_property
    def y_BC(self) -> Tensor:
        """As probabilities."""
        return self.given if self.soft else torch.nn.functional.one_hot(self.given, self.c).to(self.dtype)

    @functools.cached_property
    def mass_B(self) -> Tensor:
        """What each target sums to."""
        return self.given.sum(-1) if self.soft else torch.ones_like(self.given, dtype=self.dtype)

    @property
    def summed(self) -> bool:
        """Whether products with the targets are sums: of class indices, and on the CPU, since a GPU adds examples of
        one class in any order, which rounds differently every time."""
        return not self.soft and self.given.device.type == "cpu"

    def mass(self, weight_PNB: Tensor) -> Tensor:
        """sum_i weight_i times what target i sums to, (P, N)."""
        return (weight_PNB @ self.mass_B[..., None]).squeeze(-1) if self.soft else weight_PNB.sum(-1)

    def weighted_by_mass(self, weight: Tensor) -> Tensor:
        """(P, ..., B), times what each target sums to."""
        if not self.soft:
            return weight
        mass = self.mass_B
        return weight * (mass if mass.ndim == 1 else mass.view(len(mass), *(1,) * (weight.ndim - 2), -1))

    def of(self, values_PBC: Tensor) -> Tensor:
        """y_i . values_i, (P, B)."""
        if self.soft:
            return torch.einsum("bc,pbc->pb" if self.y_BC.ndim == 2 else "pbc,pbc->pb", self.y_BC, values_PBC)
        return values_PBC.gather(2, self.given[..., None].expand(len(values_PBC), -1, 1)).squeeze(2)

    def of_classes(self, values: Tensor) -> Tensor:
        """y_i . values, (P, N, C) -> (P, N, B)."""
        if self.soft:
            return values @ self.y_BC.mT
        return values.gather(-1, self.given[..., None, :].expand(*values.shape[:-1], -1))

    def to_classes(self, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """sum_i weight_i y_i, (P, N, B) -> (P, N, C)."""
        if not self.summed:
            return torch.matmul(weight, self.y_BC, out=out)
        out = weight.new_zeros(*weight.shape[:-1], self.c) if out is None else out.zero_()
        return out.scatter_add_(-1, self.given[..., None, :].expand_as(weight), weight)

    def subtract_classes(self, from_: Tensor, weight: Tensor) -> None:
        """`to_classes(weight)`, in place."""
        if self.summed:
            from_.scatter_add_(-1, self.given[..., None, :].expand_as(weight), -weight)
        else:
            from_.sub_(weight @ self.y_BC)

    def subtract(self, from_PBC: Tensor, weight_PB: Tensor) -> None:
        """weight_i y_i of every example, in place."""
        if self.soft:
            from_PBC.addcmul_(weight_PB[..., None], self.y_BC, value=-1)
        else:
            where = self.given[..., None].expand(len(from_PBC), -1, 1)
            from_PBC.scatter_add_(2, where, weight_PB[..., None].neg().to(from_PBC.dtype))
