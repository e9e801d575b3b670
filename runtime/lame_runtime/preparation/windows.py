"""Reads a stream's inputs and hands them out prepared, window after window.

Who asks for a window reads the inputs: only the caller's thread advances the caller's iterator.
Texts are prepared by that thread as well, since they take less than a thread costs; inputs with
pictures or videos go to threads. Outcomes are looked at in input order, so the first bad input is
reported whichever was prepared first.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from lame_runtime.batching import converted, prepare
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError
from lame_runtime.inputs import InputLike
from lame_runtime.machine.cores import default_workers
from lame_runtime.options import EncodeOptions
from lame_runtime.preparation.decoding_memory import DecodingMemory
from lame_runtime.preparation.held_bytes import most_prepared_bytes, waiting_bytes
from lame_runtime.preparation.thread_pool import ThreadPool, failure

if TYPE_CHECKING:
    from typing_extensions import Self

WINDOW_BATCHES = 16
"""Number of batches of a stream that are sorted together; more would save little padding."""
WINDOW_BYTES = 256_000_000
"""Size at which a window ends although it has fewer batches: that of 65 pictures of 1,280 vision
tokens, or of 8 million tokens of text. As much again may be prepared ahead of the next. Pictures of
all sizes are padded by 14 % then, by 4 % without a limit, and by 104 % if they are not sorted.
"""
PENDING_PER_WORKER = 4
"""Inputs that are read ahead for each thread, so that a slow one does not leave others idle."""


@dataclass(slots=True)
class _Entry:
    """An input that was read, in the order of reading."""

    outcome: Prepared | Future[Prepared]
    """Later for what a thread prepares, and at once for the rest; an error waits in a future."""
    size: int
    """Bytes that it counts for: at most what it will take, then what it takes."""
    is_threaded: bool = False
    """Whether a thread prepares it."""


class WindowReader:
    """Reads and prepares the inputs of one stream. Use it as a context manager.

    Args:
        inputs: the inputs; advanced only by the thread that calls a method.
        preparer: prepares them.
        options: `batch_size` and `workers`, and what the preparer is called with.
        is_single: there is only one input, which no thread would prepare faster.
        keep_errors: go on after an input that cannot be embedded; an `InputError` in the place of
            an input is taken for its outcome.
    """

    def __init__(
        self,
        inputs: Iterator[InputLike | InputError],
        preparer: Preparer,
        options: EncodeOptions,
        *,
        is_single: bool = False,
        keep_errors: bool = False,
    ) -> None:
        self._keep_errors = keep_errors
        self._inputs = inputs
        self._preparer = preparer
        self._options = options
        self._workers = 1 if is_single else options.workers
        self._most = options.batch_size * WINDOW_BATCHES
        self._memory = DecodingMemory()
        self._pool: ThreadPool | None = None
        self._ahead: deque[_Entry] = deque()
        """Inputs that no window has yet, in input order."""
        self._ahead_bytes = 0
        self._pending: deque[_Entry] = deque()
        """Those of them that threads have not finished, and some that they have."""
        self._count = 0
        self._is_at_end = False
        self._is_threaded = False
        """Whether threads had something to prepare for the last window, or have since."""

    def next_window(self) -> list[Prepared]:
        """Returns the next inputs, prepared; an empty list at the end.

        Raises:
            InputError: an input cannot be embedded; no input before it failed.
            Exception: what the caller's iterator raised after the inputs before.
        """
        window = []
        for outcome in self.next_outcomes():
            if not isinstance(outcome, Prepared):
                raise outcome
            window.append(outcome)
        return window

    def next_outcomes(self) -> list[Prepared | Exception]:
        """Returns the next inputs, prepared, or why they are not; an empty list at the end.

        Without `keep_errors`, nothing is read after the first error.
        """
        window: list[Prepared | Exception] = []
        size = 0
        is_threaded = False
        while len(window) < self._most and size < WINDOW_BYTES:
            self._read_on(self._most - len(window), 0)
            if not self._ahead:
                break
            entry = self._ahead.popleft()
            outcome = entry.outcome
            if isinstance(outcome, Future):
                error = outcome.exception()
                # anything but an error, such as ctrl-C, is no outcome
                if error is not None and not isinstance(error, Exception):
                    raise error
                window.append(outcome.result() if error is None else error)
            else:
                window.append(outcome)
            self._settle()
            size += entry.size
            self._ahead_bytes -= entry.size
            is_threaded |= entry.is_threaded
        # texts are never read ahead, as there would be nothing to do for threads
        self._is_threaded = is_threaded or any(entry.is_threaded for entry in self._ahead)
        return window

    def read_ahead(self, count: int) -> None:
        """Reads inputs of the next window for threads to prepare, if this one had pictures.

        Args:
            count: number of inputs that the model is about to run, and that threads may keep up
                with.
        """
        if self._is_threaded:
            self._read_on(self._most, count)

    def close(self) -> None:
        """Ends the threads; inputs that were read ahead are dropped."""
        self._ahead.clear()
        self._pending.clear()
        if self._pool is not None:
            self._pool.close()
            self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_on(self, room: int, count: int) -> None:
        """Reads inputs: one if there is none, and more while threads have too little to do.

        Args:
            room: most inputs that may be ahead.
            count: most inputs that may be unfinished, if that is more than threads need.
        """
        while not self._is_at_end and len(self._ahead) < room:
            if self._ahead and not (self._is_threaded and self._has_capacity(count)):
                return
            self._read_one()

    def _has_capacity(self, count: int) -> bool:
        if self._pool is None or self._ahead_bytes >= WINDOW_BYTES:
            return False
        self._settle()
        return len(self._pending) < max(count, self._pool.workers * PENDING_PER_WORKER)

    def _settle(self) -> None:
        """Replaces the estimated sizes of inputs that threads have finished by their own."""
        while self._pending:
            entry = self._pending[0]
            future = entry.outcome
            assert isinstance(future, Future)
            if not future.done():
                return
            self._pending.popleft()
            size = 0 if future.exception() is not None else future.result().nbytes
            self._ahead_bytes += size - entry.size
            entry.size = size

    def _read_one(self) -> None:
        """Reads an input and begins to prepare it; an error waits until it is its turn."""
        try:
            item = next(self._inputs)
        except StopIteration:
            self._is_at_end = True
            return
        except Exception as error:  # the caller's own
            self._end(failure(error))
            return
        index = self._count
        self._count += 1
        try:
            if isinstance(item, InputError):
                raise item
            parsed = converted(item, index, self._options)
        except Exception as error:  # also of an object of the caller's
            self._fail(error)
            return
        pool = self._open_pool() if _has_visuals(parsed) else None
        if pool is not None:
            preparation = functools.partial(
                _prepare_sharing, self._memory, parsed, index, self._preparer, self._options
            )
            size = waiting_bytes(parsed) + most_prepared_bytes(parsed, self._preparer.contract)
            entry = _Entry(pool.submit(preparation), size, is_threaded=True)
            self._add(entry)
            self._pending.append(entry)
            self._is_threaded = True
            return
        try:
            prepared = prepare(parsed, index, self._preparer, self._options)
        except Exception as error:
            self._fail(error)
        else:
            self._add(_Entry(prepared, prepared.nbytes))

    def _add(self, entry: _Entry) -> None:
        self._ahead.append(entry)
        self._ahead_bytes += entry.size

    def _fail(self, error: Exception) -> None:
        """Adds the outcome of an input that cannot be embedded."""
        if self._keep_errors:
            self._add(_Entry(failure(error), 0))
        else:
            self._end(failure(error))

    def _end(self, failed: Future[Prepared]) -> None:
        """Adds an outcome after which nothing will be embedded, so that nothing more is read."""
        self._add(_Entry(failed, 0))
        self._is_at_end = True

    def _open_pool(self) -> ThreadPool | None:
        """Returns the threads; None if the caller's thread prepares everything."""
        if self._workers is None:
            self._workers = default_workers()
        if self._pool is None and self._workers > 1:
            self._pool = ThreadPool(self._workers)
        return self._pool


def _has_visuals(item: Input) -> bool:
    # not by `parts`, which goes over every text
    return not (
        item.image is None
        and item.video is None
        and all(isinstance(part, str) for part in item.content)
    )


# no method, because a thread must not be the last to hold the caller's iterator
def _prepare_sharing(
    memory: DecodingMemory, item: Input, index: int, preparer: Preparer, options: EncodeOptions
) -> Prepared:
    with memory.lease() as reserve:
        return prepare(item, index, preparer, options, reserve)
