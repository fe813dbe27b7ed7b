"""Errors of the data, without advice that an evaluation cannot follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..data import UnreadableImageError
from ..data.pictures import OR_SKIP
from ..errors import one_line

__all__ = ["following_advice", "told"]


def told(error: BaseException) -> str:
    """What an error says, in one line.

    Training can do without some of its images. What is measured would be of other images, and under the same name.

    >>> told(UnreadableImageError("cannot read it: replace it" + OR_SKIP + " (2 more are unreadable too)"))
    'cannot read it: replace it (2 more are unreadable too)'
    """
    return one_line(error).replace(OR_SKIP, "")


@contextmanager
def following_advice() -> Iterator[None]:
    """Let images that cannot be read be refused in the words of `told`."""
    try:
        yield
    except UnreadableImageError as error:
        raise UnreadableImageError(told(error)) from error
