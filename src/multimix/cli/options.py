"""What is typed: names, paths, and typed options by tyro, with every mistake as one line that names the nearest one."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..extras import require

__all__ = ["flags_and_lists", "list_or_show", "parse", "split_paths"]

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
