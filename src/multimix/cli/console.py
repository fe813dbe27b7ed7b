"""Tables and sentences on the terminal, and command lines of names and paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ..extras import require
from ..reports import Summary
from ..reports.cells import Cell, Table
from ..reports.headline import headline
from ..reports.tables import results_table

__all__ = ["fitting_columns", "list_or_show", "make_console", "show_results", "show_table", "split_paths"]

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


def list_or_show(
    argv: Sequence[str],
    command: str,
    about: str,
    *,
    all_of_them: Callable[[], object],
    one: Callable[[str], object],
) -> None:
    """A command that takes a name at most: without one it lists all, with one it shows that.

    Raises:
        ValueError: more than a name.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        print(f"usage: multimix {command} [NAME]\n\n{about}")
    elif not argv:
        all_of_them()
    elif len(argv) > 1 or argv[0].startswith("-"):
        raise ValueError(f"multimix {command} takes one name at most, got {' '.join(argv)}")
    else:
        one(argv[0])


def split_paths(
    argv: Sequence[str], *, flags: Collection[str] = (), lists: Collection[str] = ()
) -> tuple[list[Path], list[str]]:
    """Paths and options of a command, in any order.

    Args:
        flags: options that take no value.
        lists: options that take all the values up to the next option. All others take one.

    >>> paths, options = split_paths(["runs/a", "--which", "best", "runs/b"])
    >>> [str(path) for path in paths]
    ['runs/a', 'runs/b']
    >>> options
    ['--which', 'best']
    >>> split_paths(["--fast", "a", "--eps", "1", "2"], flags=["--fast"], lists=["--eps"])[1]
    ['--fast', '--eps', '1', '2']
    """
    paths: list[Path] = []
    options: list[str] = []
    expected = 0.0  # how many more values the last option takes
    for token in argv:
        # A negative number is a value.
        if token.startswith("-") and not token[1:2].isdigit():
            options.append(token)
            name = token.replace("_", "-")
            expected = 0 if "=" in token or name in flags else math.inf if name in lists else 1
        elif expected:
            options.append(token)
            expected -= 1
        else:
            if not token:
                raise ValueError("a path is empty: give it, or leave it out")
            paths.append(Path(token).expanduser())
    return paths, options
