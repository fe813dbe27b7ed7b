"""The command line: `multimix COMMAND ...`, one module of this package for each command.

A command is a module with `main(argv: list[str]) -> None`. It is imported when it is called, so that
`multimix --help` answers at once.
"""

from __future__ import annotations

import codecs
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

from .. import __version__
from ..errors import machine_error, nearest_or_all, one_line

COMMANDS = {
    "train": "train one model with one method",
    "compare": "train several methods over several seeds and report them side by side",
    "sweep": "vary one option of a method at a time, as in the paper's ablations",
    "domains": "hold out every domain of a data set in turn",
    "evaluate": "evaluate finished runs, and models of torchvision and timm",
    "predict": "classify pictures with a finished run",
    "report": "make the report page of finished runs",
    "bench": "measure the loss and the training step on this machine",
    "methods": "list the training methods, or show one with its options",
    "recipes": "list the recipes, or show one",
}


_LOOK_ALIKE = "multimix look-alike"
_ASCII = {"−": "-", "–": "-", "±": "+-", "×": "x", "÷": "/", "·": "*", "…": "..."}


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    """For what a terminal cannot show: a sign must not be lost.

    >>> codecs.register_error(_LOOK_ALIKE, _look_alike)
    >>> "−1.5 ± 2 é".encode("ascii", _LOOK_ALIKE)
    b'-1.5 +- 2 ?'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def usage() -> str:
    """The overview that `multimix --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "usage: multimix COMMAND ...\n\n" + "\n".join(lines) + "\n\n`multimix COMMAND --help` explains one."


def main(argv: list[str] | None = None) -> None:
    """Run one command; a mistake of the user's ends with one line on stderr and exit code 2."""
    codecs.register_error(_LOOK_ALIKE, _look_alike)
    # Closed by who started us (`>&-`).
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # better a table with ? in it than none, after hours
            stream.reconfigure(errors=_LOOK_ALIKE)
    try:
        _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output went away (`multimix recipes | head`); Python must not try to flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("MULTIMIX_DEBUG"):
            raise
        # A library that does not fit into memory cannot be imported.
        fail((isinstance(error, ImportError) and machine_error(error)) or one_line(error))
    except (RuntimeError, MemoryError) as error:
        message = machine_error(error)
        if message is None or os.environ.get("MULTIMIX_DEBUG"):
            raise
        fail(message)


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), flush=True)
        raise SystemExit(0 if argv else 2)
    if argv[0] in ("-V", "--version"):
        print(f"multimix {__version__}", flush=True)
        raise SystemExit(0)
    name = argv[0]
    if name not in COMMANDS:
        fail(f"unknown command {name!r}{nearest_or_all(name, COMMANDS)}")
    warnings.formatwarning = _one_line_once()
    importlib.import_module(f".{name}", __package__).main(argv[1:])


def fail(message: str) -> None:
    """One line on stderr and exit code 2."""
    if is_first_process():
        with suppress(OSError):  # full, or gone
            print(f"multimix: error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def is_first_process() -> bool:
    """Whether this is the one of several processes (under torchrun, or of --devices) that speaks for all."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _one_line_once() -> Callable[..., str]:
    """A format of warnings. Methods are made several times in a command, and in several processes."""
    shown: set[str] = set()

    def formatted(message: Warning | str, *_: object, **__: object) -> str:
        line = f"multimix: warning: {' '.join(str(message).split())}\n"
        first = line not in shown
        shown.add(line)
        return line if first and is_first_process() else ""

    return formatted
