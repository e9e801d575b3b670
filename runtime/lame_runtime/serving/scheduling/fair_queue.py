"""Requests in turn: whose item is prepared next, and whose may run next. It has no threads.

Two rotations of requests: one of those with items to prepare, one of those with items that are
ready. Each takes one item of a request, then moves on to the next request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from lame_runtime.contract.preparer import Prepared
from lame_runtime.serving.scheduling.jobs import Job, Task

MAX_PREPARED_BYTES = 256_000_000
"""Size of the prepared inputs that may wait for the backend; a request that has none ready may
prepare one more until there is twice as much, so that a list of pictures keeps nobody out."""


class FairQueue:
    """Jobs in rotation.

    Args:
        most_bytes: bytes of prepared inputs.
    """

    def __init__(self, most_bytes: int = MAX_PREPARED_BYTES) -> None:
        self._most_bytes = most_bytes
        self._preparing: deque[Job] = deque()
        self._runnable: deque[Job] = deque()
        self.held = 0
        """Bytes of what is prepared or being prepared."""
        self.dropped = 0
        """Items that were never embedded because their request had ended."""

    def add(self, job: Job) -> None:
        """Adds a job, whose turn comes after those of the others."""
        self._preparing.append(job)

    def next_unprepared(self, *, texts_only: bool = False) -> Task | None:
        """Returns the item to prepare next; None if there is none, or no memory for it.

        Args:
            texts_only: pass over requests whose next item has a picture or video.
        """
        # once around: whoever has no room keeps the turn for later
        # those that are passed over keep their turn
        passed: list[Job] = []
        task = None
        while self._preparing and task is None:
            job = self._preparing.popleft()
            if job.is_over:
                self._drop(job)
            elif (texts_only and job.waiting[0].size) or not self._has_room(job):
                passed.append(job)
            else:
                task = job.waiting.popleft()
                if job.waiting:
                    self._preparing.append(job)
                self.held += task.size
        self._preparing.extendleft(reversed(passed))
        return task

    def add_ready(self, task: Task, prepared: Prepared) -> None:
        """Adds an item that was prepared."""
        job = task.job
        task.prepared = prepared
        if job.is_over:
            self.release(task)
            self.dropped += 1
            return
        # what it takes now is known
        size = prepared.nbytes if task.size else 0
        self.held += size - task.size
        task.size = size
        if not job.ready:
            self._runnable.append(job)
        job.ready[task.index] = task

    def release(self, task: Task) -> None:
        """Gives back the memory of an item that could not be prepared, or is not needed."""
        self.held -= task.size
        task.size = 0

    def candidates(self) -> Iterator[Task]:
        """Yields the items that may run next, one of each job in turn; they stay in the queue."""
        for job in [job for job in self._runnable if job.is_over]:
            self._runnable.remove(job)
            self._drop(job)
        # a batch is planned from these, so that the first item of each job comes first
        lists = [job.ready.values() for job in self._runnable]
        for turn in zip_longest(*lists):
            yield from (task for task in turn if task is not None)

    def take(self, tasks: Iterable[Task]) -> None:
        """Removes items that are about to run; the turns of their jobs are over."""
        # a dict keeps the order, which is that of the turns
        served = dict.fromkeys(task.job for task in tasks)
        for task in tasks:
            del task.job.ready[task.index]
            self.release(task)
        # those that got nothing go first next time
        waiting = [job for job in self._runnable if job not in served]
        self._runnable = deque([*waiting, *(job for job in served if job.ready)])

    def discard(self, job: Job) -> None:
        """Forgets what is left of a job that is over."""
        if job in self._preparing:
            self._preparing.remove(job)
        if job in self._runnable:
            self._runnable.remove(job)
        self._drop(job)

    def _has_room(self, job: Job) -> bool:
        size = job.waiting[0].size
        most = self._most_bytes * (1 if job.ready else 2)
        # texts take next to nothing, and what is larger than the limit runs alone
        return not size or not self.held or self.held + size <= most

    def _drop(self, job: Job) -> None:
        self.dropped += len(job.waiting) + len(job.ready)
        for task in job.ready.values():
            self.release(task)
        job.waiting.clear()
        job.ready.clear()
