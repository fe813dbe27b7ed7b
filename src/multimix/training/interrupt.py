"""Ctrl-C, SIGTERM and a terminal that is closed (SIGHUP): finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "StopRequest", "as_ctrl_c", "held_back", "listening"]


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after everything had been saved. Its text says how to go on."""


class StopRequest:
    """Set by the first signal. A second Ctrl-C is not held back: it raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.received = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into a request that the training loop honours after its step.

    Outside the main thread, where Python allows no handlers, the request is never made.
    """
    request = StopRequest()
    with _handled([signal.SIGINT, *_ends()], request.handle):
        yield request


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP too, in the main thread."""
    with _handled(_ends(), _interrupt):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP come only afterwards, in the main thread.

    A mask would not do where a process is started: it is of one thread, and starting a process lifts it.
    """
    received: list[int] = []
    with _handled([signal.SIGINT, *_ends()], lambda signum, _: received.append(signum)):
        yield
    for signum in received:
        signal.raise_signal(signum)


def _ends() -> list[signal.Signals]:
    """The signals that end a process; under nohup a closed terminal is not to be heard of."""
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, hangup]


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows no handlers here
        return
    before = {name: signal.signal(name, handler) for name in signals}
    try:
        yield
    finally:
        for name, previous in before.items():
            signal.signal(name, previous)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
