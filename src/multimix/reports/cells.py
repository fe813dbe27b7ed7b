"""The cells of tables: how a number and its spread are written, wherever they stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .statistics import Difference, Estimate


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, and what it is sorted by."""

    text: str
    value: float | str
    spread: str = ""
    """Shown smaller after the text."""
    top: bool = False
    """Whether it is the best of its column."""
    color: str = ""


@dataclass(frozen=True)
class Table:
    """Columns (a title may have two lines) and rows of cells; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


NOTHING = Cell("–", "")
"""Where there is no number."""


def best_of(
    values: Iterable[float | None], *, digits: int, choose: Callable[[Iterable[float]], float] = max
) -> float | None:
    """The value of a column to mark, rounded as it is shown; None where none is better than another.

    >>> best_of([0.123, None, 0.456], digits=2), best_of([0.123, None], digits=2)
    (0.46, None)
    """
    known = [round(value, digits) for value in values if value is not None and not math.isnan(value)]
    return choose(known) if len(set(known)) > 1 else None


def number_cell(
    value: float, spread: float = math.nan, *, digits: int, signed: bool = False, top: bool = False
) -> Cell:
    """A number and, unless it is NaN, the spread behind it.

    >>> number_cell(-1.5, 0.25, digits=2)
    Cell(text='−1.50', value=-1.5, spread='± 0.25', top=False, color='')
    >>> number_cell(-0.001, digits=2, signed=True).text  # never −0.00
    '+0.00'
    """
    text = f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    return Cell(text, value, spread="" if math.isnan(spread) else f"± {spread:.{digits}f}", top=top)


def percent_cell(estimate: Estimate | None, best: float | None) -> Cell:
    """A fraction in per cent, marked where it rounds to the `best` of its column."""
    if estimate is None:
        return NOTHING
    return number_cell(100 * estimate.mean, 100 * estimate.std, digits=2, top=round(estimate.mean, 4) == best)


def difference_cell(difference: Difference | None, *, digits: int = 2, scale: float = 100, top: bool = False) -> Cell:
    """A difference in `scale` units, of fractions in percentage points by default, and the half-width of its interval.

    >>> difference_cell(Difference(-0.012, 0.0041, 5)).text
    '−1.20'
    """
    if difference is None:
        return NOTHING
    half_width = math.nan if difference.verdict == "unknown" else difference.half_width
    return number_cell(scale * difference.mean, scale * half_width, digits=digits, signed=True, top=top)
