"""Run parts on classifiers, one after the other; a failure is noted and the others go on."""

from __future__ import annotations

import dataclasses
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .advice import evaluation_message
from .fingerprint import fingerprint
from .part import Part, Subject
from .store import Store
from .subjects import Candidate

__all__ = ["Outcome", "Watch", "check_inputs", "measure", "options_of", "run_parts"]

_WHOLE = "whole"


class Watch(Protocol):
    """What is told how far the evaluation is."""

    def begin(self, candidate: Candidate, part: Part) -> None: ...
    def say(self, words: str) -> None: ...
    def end(self, candidate: Candidate, part: Part, *, seconds: float | None, failure: str | None) -> None:
        """`seconds` is None when the result was there already."""
        ...


@dataclass
class Outcome:
    """The results of one classifier by the name of the part, and why others are missing."""

    candidate: Candidate
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(candidate: Candidate, part: Part) -> Mapping[str, Any]:
    """The result of one part for one classifier; read back where it is kept."""
    store = _store(candidate, part, _fingerprints(part))
    return _measure(candidate, part, store, candidate.load, lambda words: None)


def check_inputs(candidates: Sequence[Candidate], parts: Sequence[Part]) -> dict[str, int]:
    """Refuse what cannot be evaluated before anything is; nothing is looked at whose results are there already.

    Returns:
        By name of the part, the number of candidates whose results are not there yet.

    Raises:
        FileNotFoundError, ValueError: data or further files are missing, empty or do not fit.
    """
    missing = [(c, part) for part in parts for c in candidates if _WHOLE not in _store(c, part, _fingerprints(part))]
    for part in dict.fromkeys(part for _, part in missing):
        part.check_files(max((c.image_size for c, other in missing if other is part and c.image_size), default=None))
    for candidate in dict.fromkeys(candidate for candidate, _ in missing):
        candidate.check()
    return {part.name: sum(other is part for _, other in missing) for part in parts}


def run_parts(
    candidates: Sequence[Candidate], parts: Sequence[Part], watch: Watch, *, log: Path | None = None
) -> list[Outcome]:
    """Every part for every candidate, in order.

    Args:
        log: file for the tracebacks of failures; only made if there is one.
    """
    outcomes = []
    files = {part.name: _fingerprints(part) for part in parts}
    for candidate in candidates:
        outcome = Outcome(candidate)
        outcomes.append(outcome)
        load = _once(candidate.load)
        for part in parts:
            watch.begin(candidate, part)
            store = _store(candidate, part, files[part.name])
            kept, start, failure = _WHOLE in store, time.monotonic(), None
            try:
                outcome.results[part.name] = _measure(candidate, part, store, load, watch.say)
            except Exception as error:  # whatever it is, the other parts do not suffer from it
                failure = evaluation_message(error)
                outcome.failures[part.name] = failure
                if log is not None:
                    _append(log, candidate, part)
            watch.end(candidate, part, seconds=None if kept else time.monotonic() - start, failure=failure)
    return outcomes


def options_of(part: Part) -> dict[str, Any]:
    """The options of a part as plain JSON values."""
    part = part.resolved()
    return {f.name: _plain(getattr(part, f.name)) for f in dataclasses.fields(part)}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _measure(
    candidate: Candidate, part: Part, store: Store, load: Callable[[], Subject], say: Callable[[str], None]
) -> Mapping[str, Any]:
    return store.compute(_WHOLE, lambda: part.evaluate(load(), store, say))


def _fingerprints(part: Part) -> dict[str, str]:
    return {name: fingerprint(*files) for name, files in part.files().items()}


def _store(candidate: Candidate, part: Part, files: Mapping[str, str]) -> Store:
    options = options_of(part) | ({"files": dict(files)} if files else {})
    return Store(candidate.folder / f"{part.name}.json", identity=candidate.identity(), options=options)


def _once(load: Callable[[], Subject]) -> Callable[[], Subject]:
    """Load when first asked; a failure is raised again for every part instead of trying again."""
    made: list[Subject | Exception] = []

    def get() -> Subject:
        if not made:
            try:
                made.append(load())
            except Exception as error:
                made.append(error)
        if isinstance(made[0], Exception):
            raise made[0]
        return made[0]

    return get


def _append(log: Path, candidate: Candidate, part: Part) -> None:
    told_in_full = f"--- {candidate.name}: {part.name}\n{traceback.format_exc()}\n"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(told_in_full)
    except OSError as error:  # of a disk that has become full, which the other parts can do without
        warnings.warn(f"a traceback is not kept: {error}", stacklevel=2)
