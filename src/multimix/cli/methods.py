"""`multimix methods [NAME]`: list the training methods, or show one with its options."""

from __future__ import annotations

import functools
import inspect
import shutil
import textwrap

from ..errors import nearest_or_all
from ..methods.names import NAMES

_USAGE = (
    "usage: multimix methods [NAME]\n\nLists the training methods, or shows one with its options and their defaults."
)


def main(argv: list[str]) -> None:
    """A line for every method, or the options and the description of one."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(_USAGE)
    elif not argv:
        _list()
    elif len(argv) > 1 or argv[0].startswith("-"):
        raise ValueError(f"multimix methods takes one name at most, got {' '.join(argv)}")
    else:
        print(described(argv[0]))


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
    if name not in NAMES:
        raise ValueError(f"unknown method {name!r}{nearest_or_all(name, NAMES)}")
    parameters = inspect.signature(NAMES[name]).parameters.values()
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    options = [str(p.replace(annotation=p.empty, kind=p.KEYWORD_ONLY)) for p in parameters if p.kind not in open_ended]
    return f"{name}({', '.join(options)})\n\n{_about(name)}"


def _about(name: str) -> str:
    """The docstring, without examples in Python; of a preset, with what it sets."""
    made = NAMES[name]
    if not isinstance(made, functools.partial):
        return inspect.cleandoc(made.__doc__ or "").partition("\n>>> ")[0].rstrip()
    first, blank, rest = inspect.cleandoc(made.func.__doc__ or "").partition("\n\n")
    return f"{first} Preset: {', '.join(f'{option}={value}' for option, value in made.keywords.items())}.{blank}{rest}"
