"""Typed options from a command line: tyro, with every mistake as one line that names the nearest option."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..extras import require

__all__ = ["flags_and_lists", "parse"]

T = TypeVar("T")


def parse(argv: Sequence[str], default: T, *, prog: str, description: str | None = None, prefixes: bool = False) -> T:
    """Override the fields of the dataclass instance `default` by `--field value` options.

    `--help` prints the options with the values of `default` and exits with code 0.

    Args:
        prefixes: options of a dataclass within the dataclass are called `--group.option`, not `--option`.

    Raises:
        ValueError: an option that is not there, or a value it cannot take; one line.

    >>> from multimix.training import Config
    >>> parse(["--epochs", "3"], Config(data="digits"), prog="demo").epochs
    3
    >>> parse(["--epocs", "3"], Config(data="digits"), prog="demo")
    Traceback (most recent call last):
    ValueError: unknown option --epocs: did you mean --epochs? (demo --help lists all)
    """
    _refuse_empty(argv)
    tyro = require("tyro", "train")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            value, unknown = tyro.cli(
                type(default),
                prog=prog,
                description=description,
                args=list(argv),
                default=default,
                return_unknown_args=True,
                config=() if prefixes else (tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise ValueError(_complaint(complaint.getvalue(), argv)) from None
    if unknown:
        raise ValueError(_unknown(unknown, list(_flags(default, prefixes)), prog))
    parsed: T = _at_home(value)
    return parsed


def _at_home(value: Any) -> Any:
    """With the home folder in place of ~ in paths, which a shell leaves alone in --out=~/runs."""
    if isinstance(value, Path):
        return value.expanduser()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        changed = {name: found for name, one in given.items() if (found := _at_home(one)) != one}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def flags_and_lists(default: Any) -> tuple[set[str], set[str]]:
    """The options, with prefixes, that take no value, and those that take several.

    >>> @dataclasses.dataclass
    ... class Attacks:
    ...     restart: bool = True
    ...     curve_eps: tuple[float, ...] = (1.0, 2.0)
    >>> flags, lists = flags_and_lists(dataclasses.make_dataclass("Options", [("attacks", Attacks)])(Attacks()))
    >>> sorted(flags), sorted(lists)
    (['--attacks.no-restart', '--attacks.restart', '--help', '-h'], ['--attacks.curve-eps'])
    """
    flags, lists = {"-h", "--help"}, set()
    for flag in _flags(default, prefixes=True):
        value = default
        for name in flag[2:].replace("-", "_").split("."):
            value = getattr(value, name)
        if isinstance(value, bool):
            group, dot, name = flag[2:].rpartition(".")
            flags |= {flag, f"--{group}{dot}no-{name}"}
        elif isinstance(value, tuple):
            lists.add(flag)
    return flags, lists


def _flags(default: Any, prefixes: bool, group: str = "") -> Iterator[str]:
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags(value, prefixes, f"{group}{name}." if prefixes else "")
        else:
            yield f"--{group}{name}"


def _refuse_empty(argv: Sequence[str]) -> None:
    """What comes of `--out "$UNSET"`, which would be the current folder."""
    for number, token in enumerate(argv):
        name, equals, value = token.partition("=")
        empty = (equals and not value) if token.startswith("--") else not token
        if empty:
            option = name if equals else next((word for word in argv[:number][::-1] if word.startswith("-")), "")
            raise ValueError(f"{option or 'an argument'} is empty: give a value, or leave it out")


def _unknown(tokens: Sequence[str], flags: Sequence[str], prog: str) -> str:
    options = [token.split("=")[0] for token in tokens if token.startswith("-")]
    if not options:
        return f"unexpected argument {tokens[0]!r} ({prog} --help lists the options)"
    wanted = options[0].replace("_", "-")
    initials = "--" + "".join(word[:1] for word in wanted.strip("-").split("-"))  # --learning-rate is --lr
    nearest = initials if initials in flags else difflib.get_close_matches(wanted, flags, n=1, cutoff=0.0)[0]
    return f"unknown option {options[0]}: did you mean {nearest}? ({prog} --help lists all)"


def _complaint(box: str, argv: Sequence[str]) -> str:
    """The message in one of tyro's boxes as one line: title, message and help, with rules between them."""
    # Where stdout is not UTF-8 the frame is made of spaces and hyphens, and the title stands above a rule of its own.
    framed = box.lstrip().startswith("╭")
    lines = [line.strip(" │") for line in box.splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if re.fullmatch("─{3,}|-{3,}", line)]
    start, end = (0, *rules[:1]) if framed else (rules[0] + 1, rules[1])
    message = re.sub(r"\s+", " ", " ".join(lines[start:end])).strip()
    option = re.match(r"Error parsing (--[\w.-]+):", message)
    if option is None:
        return re.sub(r"^Error parsing \w+: ", "", message)
    # Below the rule stands the option with the kind of value it takes.
    kind = next((line for line in lines[end:] if line.startswith(f"{option[1]} ")), "")
    expected = kind.removeprefix(option[1]).strip().replace("{None}|", "")
    return f"{option[1]}: expected {expected or 'another value'}, got {_given(option[1], argv)}"


def _given(option: str, argv: Sequence[str]) -> str:
    spellings = (option, option.replace("-", "_").replace("__", "--", 1))
    for number, token in reversed(list(enumerate(argv))):  # of several, the last counts
        name, _, value = token.partition("=")
        if name in spellings:
            following = itertools.takewhile(lambda word: not word.startswith("--"), argv[number + 1 :])
            return repr(value or " ".join(following))
    return "another"
