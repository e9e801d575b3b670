"""TensorRT's builder as a progress bar."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from lame_export.errors import ExportError


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Ctrl-C while TensorRT builds: the event is set, for the monitor to end the build, and the interrupt is raised after it.

    An exception in one of TensorRT's callbacks would be swallowed by its bindings.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield stopped
    except ExportError:
        if not stopped.is_set():
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if stopped.is_set():
        raise KeyboardInterrupt


def make_monitor(trt: Any, bar: tqdm[Any], stopped: threading.Event) -> Any:
    """An `IProgressMonitor` that moves a bar; TensorRT calls it from several threads.

    A phase's steps are added to the bar's total when it starts, since nobody knows before how many there will be.
    Once `stopped` is set, the build ends.
    """

    class Monitor(trt.IProgressMonitor):
        """See `make_monitor`."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._left: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            """More to do."""
            del parent_phase
            with self._lock:
                self._left[phase_name] = num_steps
                bar.total = (bar.total or 0) + num_steps
                bar.set_postfix_str(phase_name[:40])

        def step_complete(self, phase_name: str, step: int) -> bool:
            """One done."""
            del step
            with self._lock:
                if self._left.get(phase_name, 0):
                    self._left[phase_name] -= 1
                    bar.update()
            return not stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """The rest of a phase may be left out."""
            with self._lock:
                bar.update(self._left.pop(phase_name, 0))

    return Monitor()
