"""Provides a lock that a forked process can take although another thread held it at the fork."""

from __future__ import annotations

import os
import threading
from types import TracebackType


class ForkLock:
    """Represents a lock for `with`, which is free again in every forked process.

    A child has only the thread that forked. A lock that another thread held then would never be
    released there.
    """

    def __init__(self) -> None:
        self._renew()
        # there is no fork on Windows
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def locked(self) -> bool:
        """Returns whether a thread of this process holds the lock."""
        return self._lock.locked()


CALLERS_FILES = ForkLock()
"""Held while an object that a caller handed in is read: an open file, or a picture that is not
loaded yet. Threads may share such objects, objects may share a file, and a file has one position.
"""
