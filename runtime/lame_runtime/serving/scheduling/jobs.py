"""One request's items on their way to vectors."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from lame_runtime.contract.batch import Floats
from lame_runtime.contract.preparer import Prepared, Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.options import EncodeOptions
from lame_runtime.preparation.held_bytes import most_prepared_bytes


@dataclass(eq=False)
class Task:
    """One item of a request."""

    job: Job
    index: int
    item: Input
    size: int
    """Bytes that it takes once it is prepared, at most; 0 for a text."""
    since: float = field(default_factory=time.perf_counter)
    """When it began to wait for what is next."""
    prepared: Prepared | None = None


@dataclass
class Times:
    """Seconds that the slowest item of a request spent in each step."""

    prepare: float = 0.0
    queue: float = 0.0
    run: float = 0.0


class Job:
    """An accepted request.

    Args:
        items: the inputs, in order.
        places: the place of each in the request, such as `input[3]`.
        options: role and truncation.
        preparer: for the sizes that prepared inputs can have.
        dim: length P of the vectors.

    Its attributes are changed under the lock of the scheduler only.
    """

    def __init__(
        self,
        items: Sequence[Input],
        places: Sequence[str],
        options: EncodeOptions,
        preparer: Preparer,
        dim: int,
    ) -> None:
        self.places = places
        self.options = options
        self.outcome: Future[Floats] = Future()
        """The vectors, float32 (n, P) as the backend returned them, or an `ApiError`."""
        self.waiting: deque[Task] = deque()
        """Items that are not prepared yet."""
        self.ready: dict[int, Task] = {}
        """Prepared items that no batch has yet, by index."""
        self.times = Times()
        self.tokens = self.vision_tokens = 0
        # filled as batches come, in any order
        self._vectors = np.empty((len(items), dim), dtype=np.float32)
        self._left = len(items)
        for index, item in enumerate(items):
            visual = any(not isinstance(part, str) for part in item.parts)
            # texts count for nothing: they are small, and must never wait for memory
            size = most_prepared_bytes(item, preparer.contract) if visual else 0
            self.waiting.append(Task(self, index, item, size))

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the rest: answered, failed, or given up by the client."""
        return self.outcome.done()

    def store(self, index: int, vector: Floats) -> None:
        """Stores the vector of an item; the last one ends the job."""
        self._vectors[index] = vector
        self._left -= 1
        if not self._left:
            self._end(lambda: self.outcome.set_result(self._vectors))

    def fail(self, error: Exception) -> None:
        """Ends the job with an error, unless it has ended."""
        self._end(lambda: self.outcome.set_exception(error))

    def _end(self, set_outcome: Callable[[], None]) -> None:
        # a client that hangs up may cancel the outcome at any moment
        if not self.is_over and self.outcome.set_running_or_notify_cancel():
            set_outcome()

    def count(self, prepared: Prepared, merge_size: int) -> None:
        """Counts the tokens of an item."""
        self.tokens += len(prepared.ids)
        # as many patches become one vision token
        patches = sum(visual.n_patches for visual in prepared.visuals)
        self.vision_tokens += patches // merge_size**2
