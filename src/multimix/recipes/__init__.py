"""Recipes: one experiment each, as a `Config` in a module of its own.

The docstring of a recipe's module states the command, the hardware, the time and the expected result, and where
these come from. `multimix recipes` lists them; `multimix train NAME` runs one.

>>> from multimix import recipes
>>> recipes.get("digits").data
'digits'
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass

from ..errors import nearest_or_all
from ..training.config import Config

__all__ = ["Card", "card", "get", "names"]


def names() -> list[str]:
    """All recipes, in alphabetical order; one module of this package each."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Config:
    """The configuration of a recipe.

    Raises:
        ValueError: there is none of this name; names the nearest.
    """
    return card(name).config


@dataclass(frozen=True)
class Card:
    """A recipe and what its module says about it."""

    name: str
    config: Config
    text: str
    """The whole docstring."""
    hardware: str
    time: str
    expected: str


def card(name: str) -> Card:
    """The recipe with its description.

    Raises:
        ValueError: there is none of this name; names the nearest.

    >>> card("digits").hardware
    'one CPU core'
    """
    if name not in names():
        raise ValueError(f"unknown recipe {name!r}{nearest_or_all(name, names())}")
    module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    text = inspect.cleandoc(module.__doc__ or "")

    def section(label: str) -> str:
        """What follows `label:` up to the next label or blank line, as one line."""
        found = re.search(rf"^{label}:\s*(.*?)(?=^\S|\Z|^\s*$)", text, flags=re.MULTILINE | re.DOTALL)
        return " ".join(found.group(1).split()) if found else ""

    return Card(name, module.config, text, section("Hardware"), section("Time"), section("Expected"))
