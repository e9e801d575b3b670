"""Raises signals that would end a command as exceptions, so that it can clean up."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_TERMINATION = ("SIGTERM", "SIGHUP")
"""Signals that end a command as ctrl-C does; Windows has only the first."""
_CLEANUP_SECONDS = 1.0


class Interruption(KeyboardInterrupt):
    """Raised in place of a signal that ends the command."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[list[int]]:
    """Raises `Interruption` for SIGINT, SIGTERM and SIGHUP, which remove nothing by themselves.

    Signals that already have a handler or are ignored stay as they are: `nohup` ignores SIGHUP, and
    a shell ignores SIGINT for a program in the background.

    Yields:
        The signals received so far. Check them after an import: native code that is interrupted
        while it is imported turns the exception into an error of its own.
    """
    process, first = os.getpid(), 0.0
    received: list[int] = []
    defaults = {signal.SIGINT: signal.default_int_handler} | {
        getattr(signal, name): signal.SIG_DFL for name in _TERMINATION if hasattr(signal, name)
    }
    # only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        defaults = {}
    replaced = {n: default for n, default in defaults.items() if signal.getsignal(n) is default}

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal first
        if os.getpid() != process:
            # a forked worker inherits the handler, but has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # a second signal must not interrupt the cleanup; a later ctrl-C means that the exception
        # was lost, such as in a destructor
        for other in replaced:
            if other != signal.SIGINT:
                signal.signal(other, signal.SIG_IGN)
        if received and time.monotonic() - first < _CLEANUP_SECONDS:
            return
        first = time.monotonic()
        received.append(number)
        raise Interruption(number)

    for number in replaced:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, default in replaced.items():
            signal.signal(number, default)
