"""Tables and sentences on the terminal, and command lines of paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..extras import require
from ..reports import Summary
from ..reports.headline import headline
from ..reports.tables import Table, results_table

__all__ = ["show_results", "show_table", "split_paths"]


def show_results(summary: Summary) -> None:
    """The results table, the sentences that it justifies, and what is missing."""
    show_table(results_table(summary))
    for sentence in headline(summary):
        print(sentence)
    for line in summary.missing:
        print(f"missing: {line}")


def show_table(table: Table) -> None:
    """Print a table, as wide as it needs to be; the best of a column is bold."""
    text = require("rich.text", "train").Text
    drawn = require("rich.table", "train").Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if number == 0 else "right", no_wrap=True, vertical="bottom")
    for row in table.rows:
        drawn.add_row(*(text(f"{cell.text} {cell.spread}".strip(), style="bold" if cell.top else "") for cell in row))
    console = require("rich.console", "train").Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 240  # a file or a pipe has no edge to wrap at
    console.print(drawn)


def split_paths(argv: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Paths and options of a command whose options all take one value, in any order.

    >>> split_paths(["runs/a", "--which", "best", "runs/b"])
    ([PosixPath('runs/a'), PosixPath('runs/b')], ['--which', 'best'])
    """
    paths: list[Path] = []
    options: list[str] = []
    takes_value = False
    for token in argv:
        if token.startswith("-"):
            options.append(token)
            takes_value = "=" not in token
        elif takes_value:
            options.append(token)
            takes_value = False
        else:
            paths.append(Path(token))
    return paths, options
