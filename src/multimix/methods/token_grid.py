"""Which grid the tokens of a transformer form, for images that need not be square."""

from __future__ import annotations

import math


def token_grid(r: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of r square patches that tile an image, but for what is too narrow for one more.

    Raises:
        ValueError: they cannot.

    >>> token_grid(196, 224, 224), token_grid(8, 32, 64), token_grid(8, 39, 64)
    ((14, 14), (2, 4), (2, 4))
    """
    rows = max(1, round(math.sqrt(r * height / width)))
    columns = r // rows
    side = max(1, min(height // rows, width // max(1, columns)))
    if rows * columns != r or (height // side, width // side) != (rows, columns):
        raise ValueError(f"{r} patch tokens do not tile images of {height}x{width} evenly: use square patches")
    return rows, columns
