"""`multimix methods [NAME]`: list the training methods, or show one with its options."""

from __future__ import annotations

import functools
import inspect
import shutil
import textwrap

from ..methods.names import NAMES, options_of
from .options import list_or_show

_ABOUT = "Lists the training methods, or shows one with its options and their defaults."


def main(argv: list[str]) -> None:
    """A line for every method, or the options and the description of one."""
    list_or_show(argv, "methods", _ABOUT, all_of_them=_list, one=lambda name: print(described(name)))


def _list() -> None:
    width = max(map(len, NAMES)) + 2
    columns = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    lines = textwrap.TextWrapper(columns, subsequent_indent=" " * width, break_on_hyphens=False)
    for name in NAMES:
        print(lines.fill(name.ljust(width) + _about(name).split("\n\n")[0]))
    print('\n`multimix methods NAME` shows the options of one, as in --method "multimix(alpha=0.1, n=500)".')


def described(name: str) -> str:
    """The call with every option and its default, and what the method says of itself.

    Raises:
        ValueError: no method of this name.

    >>> print(described("cutmix").splitlines()[0])
    cutmix(alpha=1.0)
    """
    options = [str(p.replace(annotation=p.empty, kind=p.KEYWORD_ONLY)) for p in options_of(name).values()]
    return f"{name}({', '.join(options)})\n\n{_about(name)}"


def _about(name: str) -> str:
    """The docstring, without examples in Python; of a preset, with what it sets."""
    made = NAMES[name]
    if not isinstance(made, functools.partial):
        return inspect.cleandoc(made.__doc__ or "").partition("\n>>> ")[0].rstrip()
    first, blank, rest = inspect.cleandoc(made.func.__doc__ or "").partition("\n\n")
    return f"{first} Preset: {', '.join(f'{option}={value}' for option, value in made.keywords.items())}.{blank}{rest}"
