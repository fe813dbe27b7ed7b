"""Results of a part, kept in a file as they come."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..files import exclusive, write_json

__all__ = ["Store"]

T = TypeVar("T")


class Store:
    """Results of one part for one classifier, in one JSON file that is written after every piece.

    The file holds the pieces of every set of options that was ever asked for, so that going back to earlier options
    costs nothing; they all go when the classifier changes, since nothing of them is true any more. A damaged file
    counts as empty.

    Args:
        path: the file; its folder is made when there is something to write.
        identity: what the results depend on besides the options: a digest of the weights and of the data.
        options: the options of the part, plain JSON values.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path, options = Path(folder, "part.json"), {"limit": 10}
    ...     Store(path, identity="weights 1", options=options).compute("sum", lambda: sum(range(10)))
    ...     Store(path, identity="weights 1", options=options).compute("sum", lambda: 1 / 0)
    ...     Store(path, identity="weights 2", options=options).compute("sum", lambda: -1)
    45
    45
    -1
    """

    def __init__(self, path: Path, *, identity: str, options: Mapping[str, Any]) -> None:
        self._file, self._identity = path, identity
        self._options = json.dumps(options, sort_keys=True)
        self._all: dict[str, dict[str, Any]] = {}
        with suppress(OSError):  # evaluated anew, and the file is left alone
            self._all = _read(path, identity)
        self._pieces = self._all.setdefault(self._options, {})
        self._warned = False

    def __contains__(self, key: str) -> bool:
        return key in self._pieces

    def compute(self, key: str, function: Callable[[], T], *, depends_on: Mapping[str, Any] | None = None) -> T:
        """What is kept under `key`; if nothing is, the value of `function`, a plain JSON value, which is then kept.

        Divide long work into keys that take seconds each: an interrupted evaluation continues after the last one.

        Args:
            depends_on: in place of the options of the part, for a piece that depends on some of them only.

        Raises:
            TypeError: the value is not plain JSON.
        """
        pieces = self._pieces
        if depends_on is not None:
            pieces = self._all.setdefault(json.dumps({"depends_on": depends_on}, sort_keys=True), {})
        if key not in pieces:
            # Through JSON at once, so that a first evaluation and a continued one see the same values.
            pieces[key] = _plain(key, function())
            self._write()
        value: T = pieces[key]
        return value

    def path(self, name: str) -> Path:
        """A file beside the results for what is no JSON; another one for other weights or options."""
        digest = hashlib.blake2b(repr((self._identity, self._options)).encode(), digest_size=6).hexdigest()
        return self._file.with_name(f"{self._file.stem}-{digest}-{name}")

    def _take_in(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        """What another evaluation, with other options, has kept in the meantime."""
        for options, pieces in kept.items():
            mine = self._all.setdefault(options, {})
            mine.update({key: value for key, value in pieces.items() if key not in mine})

    def _write(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Or what another evaluation writes after it is read here would be lost.
            with exclusive(self._file.parent):
                self._take_in(_read(self._file, self._identity))
                write_json(self._file, {"identity": self._identity, "by_options": self._all})
        except OSError as error:
            # What lies on a read-only or a full disk can be evaluated all the same. A disk may also have room again:
            # the next write holds all the pieces.
            if not self._warned:
                warnings.warn(f"results cannot be saved for later: {error}", stacklevel=3)
            self._warned = True


def _plain(key: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise TypeError(f"the piece {key!r} must be a plain JSON value: {error}") from None


def _read(path: Path, identity: str) -> dict[str, dict[str, Any]]:
    try:
        kept = json.loads(path.read_bytes())
        if kept["identity"] == identity and all(isinstance(pieces, dict) for pieces in kept["by_options"].values()):
            return kept["by_options"]
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return {}
