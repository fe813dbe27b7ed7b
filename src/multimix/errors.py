"""What an error says, where there is room for one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LOADER_DIED = "DataLoader worker (pid"
"""Begins what PyTorch says when the system has killed a process that loads images."""

_SMALLER = "by a smaller --batch-size or --image-size, say"
_ANOTHER_ENDED = "another process of this run has ended; continue with --resume"
_OF_THE_MACHINE = {
    LOADER_DIED: "was the memory full? {again}",
    "allocate memory": f"use less of it, {_SMALLER}",
    "nable to allocate": f"use less memory, {_SMALLER}",
    "out of memory": f"use less of it, {_SMALLER}",
    "failed to map segment": "there is too little memory for PyTorch: raise the limit (ulimit -v)",
    "calculation overflowed": f"use less memory, {_SMALLER}",
    "Connection closed by peer": _ANOTHER_ENDED,
    "Connection reset by peer": _ANOTHER_ENDED,
}

_OF_A_LOADER = "Original Traceback (most recent call last):"


def one_line(error: BaseException) -> str:
    r"""The message of an error in one line; its type where it has none.

    A loader's worker buries what went wrong in a traceback, of which the last line says it.

    >>> one_line(ValueError("too\n  many")), one_line(KeyError())
    ('too many', 'KeyError')
    >>> one_line(MemoryError(f"Caught MemoryError in worker 0.\n{_OF_A_LOADER}\n  File 1\nMemoryError: 7 GB"))
    'Caught MemoryError in worker 0: MemoryError: 7 GB'
    """
    text = str(error)
    if _OF_A_LOADER in text:
        where, _, buried = text.partition(_OF_A_LOADER)
        text = f"{where.strip().rstrip('.')}: {buried.strip().splitlines()[-1]}"
    return " ".join(text.split()) or type(error).__name__


def machine_error(
    error: BaseException, *, again: str = "Continue with --resume, perhaps with fewer --workers"
) -> str | None:
    """What the machine refused, and what helps, in one line; None for an error of a program.

    Args:
        again: how the command goes on after a process that loads images was killed; default: how `multimix train` does.

    >>> machine_error(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 7 GB."))
    "DefaultCPUAllocator: can't allocate memory: you tried 7 GB: use less of it, by a smaller --batch-size or \
--image-size, say"
    >>> machine_error(RuntimeError("shapes do not match"))
    """
    text = one_line(error)
    if isinstance(error, MemoryError) and "allocate" not in text:
        text = f"out of memory ({text})"
    advice = next((advice for said, advice in _OF_THE_MACHINE.items() if said in text), None)
    return None if advice is None else f"{text.rstrip('.')}: {advice.replace('{again}', again)}"


def failure_reason(error: BaseException, *, again: str) -> str:
    """Why one of several things failed, in one line: where the machine refused it with what helps, as `machine_error`.

    >>> failure_reason(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), again="Try again.")
    'DataLoader worker (pid 7) is killed by signal: Killed: was the memory full? Try again.'
    >>> failure_reason(ValueError("out of memory"), again="")
    'out of memory'
    """
    told = machine_error(error, again=again) if isinstance(error, RuntimeError | MemoryError) else None
    return told or one_line(error)


def first_line(error: BaseException) -> str:
    r"""The first line of the message of an error; its type where it has none.

    >>> first_line(ValueError("too\n  many")), first_line(KeyError())
    ('too', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """How a message about an unknown name ends, where one of those known is like it.

    >>> nearest("Digit", ["digits", "cifar10"]), nearest("x", ["digits"])
    (': did you mean digits?', '')
    """
    alike = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), alike, n=1)
    return f": did you mean {alike[near[0]]}?" if near else ""


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """The same, where those known are few enough to name them all.

    >>> nearest_or_all("x", ["digits", "cifar10"])
    ': expected one of digits, cifar10'
    """
    return nearest(name, known) or f": expected one of {', '.join(known)}"
