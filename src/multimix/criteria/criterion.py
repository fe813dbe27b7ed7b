"""What the criteria have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn


class Criterion(nn.Module):
    """A loss: what it is called with differs, what it returns is a scalar tensor."""

    if TYPE_CHECKING:  # to PyTorch's types a module may return anything

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...
