"""What an error says, where there is room for one line."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    r"""The message of an error in one line; its type where it has none.

    >>> one_line(ValueError("too\n  many")), one_line(KeyError())
    ('too many', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__
