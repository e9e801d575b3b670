"""The threads that prepare the inputs of one stream."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from lame_runtime.contract.preparer import Prepared

THREAD_NAME = "lame-prepare"
"""First part of the names of these threads."""

Preparation = Callable[[], Prepared]


class ThreadPool:
    """Prepares inputs in threads, the first of which starts with the first input.

    Args:
        workers: most threads.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._process = os.getpid()
        self._threads = ThreadPoolExecutor(workers, THREAD_NAME)

    def submit(self, prepare: Preparation) -> Future[Prepared]:
        """Returns the outcome of a preparation, which may come later."""
        try:
            return self._threads.submit(prepare)
        # the system gives no more threads, or Python is about to end
        except RuntimeError:
            future: Future[Prepared] = Future()
            try:
                future.set_result(prepare())
            except Exception as error:
                return failure(error)
            return future

    def close(self) -> None:
        """Drops what has not begun and waits for the rest, after which there are no threads."""
        # a forked process has none to wait for
        if os.getpid() == self._process:
            # The garbage collector may call this from such a thread, which cannot wait for itself.
            # They end in any case.
            is_own = threading.current_thread().name.startswith(THREAD_NAME)
            self._threads.shutdown(wait=not is_own, cancel_futures=True)


def failure(error: Exception) -> Future[Prepared]:
    """Returns the outcome of a preparation that could not begin."""
    future: Future[Prepared] = Future()
    future.set_exception(error)
    return future
