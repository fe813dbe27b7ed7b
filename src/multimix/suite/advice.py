"""Errors of the data, without advice that an evaluation cannot follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..data import UnreadableImageError
from ..data.pictures import OR_SKIP
from ..errors import failure_reason

__all__ = ["evaluation_message", "without_skip_advice"]


def evaluation_message(error: BaseException) -> str:
    """What an error says, in one line.

    Training can do without some of its images. What is measured would be of other images, and under the same name.

    >>> evaluation_message(UnreadableImageError("cannot read it: replace it" + OR_SKIP + " (2 more are so too)"))
    'cannot read it: replace it (2 more are so too)'
    """
    return failure_reason(error, again="Try again with a smaller --batch-size").replace(OR_SKIP, "")


@contextmanager
def without_skip_advice() -> Iterator[None]:
    """Let images that cannot be read be refused in the words of `evaluation_message`."""
    try:
        yield
    except UnreadableImageError as error:
        raise UnreadableImageError(evaluation_message(error)) from error
