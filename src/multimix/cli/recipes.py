"""`multimix recipes [NAME]`: list the recipes, or show one."""

from __future__ import annotations

import dataclasses

from .. import recipes
from ..extras import require
from .console import make_console
from .options import list_or_show

_ABOUT = "Lists the recipes, or shows what NAME says about itself and its values."


def main(argv: list[str]) -> None:
    """A table of all recipes, or the description and the resolved values of one."""
    list_or_show(argv, "recipes", _ABOUT, all_of_them=_table, one=lambda name: _show(recipes.card(name)))


def _table() -> None:
    console = make_console(160)
    wide = console.width >= 120
    table = require("rich.table", "train").Table(
        box=None, pad_edge=False, header_style="bold", padding=(0, 2, 1 if wide else 0, 0)
    )
    for column in ("name", "data", "model", "epochs", *(("hardware and time", "expected") if wide else ())):
        table.add_column(column, justify="right" if column == "epochs" else "left", no_wrap=column in ("name", "model"))
    for name in recipes.names():
        card = recipes.card(name)
        config = card.config
        more = (f"{card.hardware}; {card.time}", card.expected) if wide else ()
        table.add_row(name, config.data, config.model, str(config.epochs), *more)
    console.print(table)
    shows = "shows one" if wide else "shows one, with hardware, time and what to expect"
    console.print(f"`multimix recipes NAME` {shows}; `multimix train NAME` runs it.")


def _show(card: recipes.Card) -> None:
    print(card.text)
    print("\nValues, each an option of `multimix train`:")
    for field in dataclasses.fields(card.config):
        value = getattr(card.config, field.name)
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"  {field.name.replace('_', '-'):20} {shown}")
