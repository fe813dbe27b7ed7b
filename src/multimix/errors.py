"""What an error says, where there is room for one line."""

from __future__ import annotations

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
