"""Tables and sentences on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..extras import require
from ..reports import Summary
from ..reports.cells import Cell, Table
from ..reports.headline import headline
from ..reports.tables import results_table

__all__ = ["fitting_columns", "make_console", "show_results", "show_table"]

GAP = 2
"""Spaces between columns."""


def show_results(summary: Summary) -> None:
    """The results table, the sentences that it justifies, and what is missing."""
    show_table(results_table(summary))
    for sentence in headline(summary):
        print(sentence)
    for line in summary.missing:
        print(f"missing: {line}")


def show_table(table: Table) -> None:
    """Print a table; the best of a column is bold. Columns that do not fit beside each other go below each other."""
    console = make_console(10_000)  # a file or a pipe has no edge to wrap at
    blocks = fitting_columns(table, console.width)
    # A terminal narrower than two columns wraps lines, where rich would cut them off.
    console.width = max(console.width, *(_width(table, columns) for columns in blocks))
    for columns in blocks:
        drawn = require("rich.table", "train").Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        for column in columns:
            justify = "left" if column == 0 else "right"
            drawn.add_column(table.columns[column], justify=justify, no_wrap=True, vertical="bottom")
        for row in table.rows:
            cells = [row[column] for column in columns]
            drawn.add_row(*(_text(cell) for cell in cells))
        console.print(drawn)


def make_console(width: int) -> Any:
    """What prints on the standard output: as wide as the terminal, and `width` characters where there is none."""
    console = require("rich.console", "train").Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = width
    console.on_broken_pipe = _broken_pipe
    return console


def _broken_pipe() -> None:
    """Leave the reader that went away to who prints without rich as well, where rich would exit with 1."""
    raise


def fitting_columns(table: Table, width: int) -> list[list[int]]:
    """The columns in blocks that each fit into `width` characters and begin with the first column.

    >>> from multimix.reports.cells import Cell
    >>> fitting_columns(Table(["method", "a", "b", "c"], [[Cell("1234567", 0)] * 4]), width=28)
    [[0, 1, 2], [0, 3]]
    """
    blocks: list[list[int]] = [[0]]
    for column in range(1, len(table.columns)):
        if _width(table, [*blocks[-1], column]) > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(column)
    return blocks


def _width(table: Table, columns: Sequence[int]) -> int:
    """Of these columns beside each other, in characters."""
    cells = [[*table.columns[k].split("\n"), *(str(_text(row[k])) for row in table.rows)] for k in columns]
    return sum(max(map(len, lines)) for lines in cells) + GAP * (len(columns) - 1)


def _text(cell: Cell) -> Any:
    style = "bold" if cell.top else ""
    return require("rich.text", "train").Text(f"{cell.text} {cell.spread}".strip(), style=style)
