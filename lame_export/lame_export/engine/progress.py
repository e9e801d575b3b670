"""Shows TensorRT's builder as a progress bar, and lets signals end a build."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lame_runtime.errors import ExportError


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turns Ctrl-C into an event while TensorRT builds, and raises `KeyboardInterrupt` afterwards.

    SIGTERM and SIGHUP likewise, if they have a handler in Python, which is then called afterwards.
    The monitor reads the event and ends the build. An exception raised in one of TensorRT's
    callbacks would be swallowed by its bindings. In a thread other than the main one, which may not
    set signal handlers, the event is never set.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        stopped.set()

    before = {number: signal.signal(number, stop) for number in _signals()}
    try:
        yield stopped
    except ExportError:
        # A build that the monitor ended returns no plan, which looks like a graph TensorRT refuses.
        if not stopped.is_set():
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and received[0] != signal.SIGINT:
        signal.raise_signal(received[0])
    if stopped.is_set():
        raise KeyboardInterrupt


def _signals() -> list[int]:
    """Returns SIGINT, and the termination signals that have a handler in Python."""
    others = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [signal.SIGINT, *(number for number in others if callable(signal.getsignal(number)))]


def make_monitor(trt: Any, bar: Any, stopped: threading.Event) -> Any:
    """Returns an `IProgressMonitor` that moves a progress bar, and ends the build once stopped.

    Args:
        trt: the TensorRT module.
        bar: from `lame_runtime.progress.progress_bar`. A phase's steps are added to its total when
            the phase starts, since TensorRT does not say before how many there will be.
        stopped: once it is set, the build ends.
    """

    # Defined here because the base class comes from whichever TensorRT module is in use.
    class Monitor(trt.IProgressMonitor):
        """Moves the bar."""

        def __init__(self) -> None:
            # TensorRT's bindings require this explicit call of the base class's __init__.
            trt.IProgressMonitor.__init__(self)
            # TensorRT calls from several threads at once.
            self._lock = threading.Lock()
            self._steps_left: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            """Adds a phase's steps to the total."""
            del parent_phase
            with self._lock:
                self._steps_left[phase_name] = num_steps
                bar.total = (bar.total or 0) + num_steps
                # Phases are named after layers, whose names can be longer than a terminal line.
                bar.set_postfix_str(phase_name[:40])

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Counts one step; returns whether the build goes on."""
            del step
            with self._lock:
                if self._steps_left.get(phase_name, 0):
                    self._steps_left[phase_name] -= 1
                    bar.update()
            return not stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """Counts the steps that a phase left out, so that the bar ends where the build does."""
            with self._lock:
                bar.update(self._steps_left.pop(phase_name, 0))

    return Monitor()
