"""Lets a forked process end although its parent has loaded graphs.

A forked process inherits ONNX Runtime's sessions but not their threads. When Python ends there, or
drops a session, the session's destructor would wait for these threads forever. So sessions are kept
in forked processes, whose memory goes back when they end.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

_SESSIONS: weakref.WeakSet[Any] = weakref.WeakSet()
"""Sessions of this process that are in use."""


def keep_in_forks(session: Any) -> None:
    """Makes sure that no process that is forked from this one destroys a session."""
    _SESSIONS.add(session)


def _keep_sessions() -> None:
    for session in _SESSIONS:
        # a reference that nobody gives back, because Python clears its modules when it ends
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


# there is no fork on Windows
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)
