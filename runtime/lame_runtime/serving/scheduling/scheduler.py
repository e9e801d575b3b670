"""The threads of the server: some that prepare items, and one that runs the backend."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future

from lame_runtime.batching import prepare
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError
from lame_runtime.preparation.decoding_memory import DecodingMemory
from lame_runtime.serving.api.api_errors import (
    ApiError,
    failed_item,
    input_problem,
    lost_backend,
    unavailable,
)
from lame_runtime.serving.figures import Figures
from lame_runtime.serving.health import Health
from lame_runtime.serving.scheduling.backend_runner import BackendRunner
from lame_runtime.serving.scheduling.batch_forming import form_batch
from lame_runtime.serving.scheduling.fair_queue import FairQueue
from lame_runtime.serving.scheduling.jobs import Job, Task

logger = logging.getLogger(__name__)

_EMPTY = Input()
RETRY_SECONDS = 1.0
"""Time between two probes of a backend that fails."""


class Scheduler:
    """Turns the items of jobs into vectors.

    Args:
        runner: runs batches.
        preparer: prepares items.
        memory: what all decoders together may take.
        health: whether the backend is lost.
        figures: counts items and seconds.
        batch_tokens: tokens of a batch.
        workers: threads that prepare items.
    """

    def __init__(
        self,
        runner: BackendRunner,
        preparer: Preparer,
        memory: DecodingMemory,
        health: Health,
        figures: Figures,
        *,
        batch_tokens: int,
        workers: int,
    ) -> None:
        self._runner = runner
        self._preparer = preparer
        self._memory = memory
        self._health = health
        self._figures = figures
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()
        # one lock and two conditions: a thread wakes only for work of its kind
        self._to_prepare = threading.Condition(self._lock)
        self._to_run = threading.Condition(self._lock)
        self._queue = FairQueue()
        self._jobs: set[Job] = set()
        self._probe: Future[bool] | None = None
        self._is_closing = False
        # one more for texts, which would wait while all others decode large pictures
        self._threads = [
            threading.Thread(
                target=self._prepare_items,
                args=(number == workers,),
                name=f"lame-serve-prepare-{number}",
            )
            for number in range(workers + 1)
        ]
        self._threads.append(threading.Thread(target=self._run_batches, name="lame-serve-backend"))
        for thread in self._threads:
            # a backend that hangs must not keep the process from ending
            thread.daemon = True
            thread.start()

    def submit(self, job: Job) -> None:
        """Adds a job, whose `outcome` comes later.

        Raises:
            ApiError: 503, the backend is lost or the server is about to end.
        """
        with self._lock:
            if self._is_closing:
                raise unavailable("the server is about to end", "draining")
            # checked under the lock, as the thread that loses the backend fails all jobs under it
            if self._health.is_lost:
                raise lost_backend()
            self._jobs.add(job)
            self._queue.add(job)
            # all, because one of the threads takes only texts
            self._to_prepare.notify_all()

    def cancel(self, job: Job) -> None:
        """Forgets what is left of a job that nobody waits for."""
        with self._lock:
            # this comes after every request, in the loop of events
            # most jobs are answered, and nothing is left of them
            if job in self._jobs:
                job.outcome.cancel()
                self._forget(job)
                self._to_prepare.notify_all()

    def probe(self) -> Future[bool]:
        """Returns the outcome of a probe, which runs before the next batch."""
        with self._lock:
            if self._probe is None:
                self._probe = Future()
            self._to_run.notify()
            return self._probe

    def abandon(self) -> None:
        """Lets what is left fail with 503, and the threads end when they are done."""
        with self._lock:
            self._is_closing = self._runner.is_ending = True
            self._fail_all(unavailable("the server is about to end", "draining"))
            if self._probe is not None:
                self._probe.cancel()
            self._to_prepare.notify_all()
            self._to_run.notify_all()

    def close(self) -> None:
        """Abandons what is left, and waits for the threads."""
        self.abandon()
        for thread in self._threads:
            thread.join(RETRY_SECONDS * 10)
        self._memory.close()

    def _forget(self, job: Job) -> None:
        self._jobs.discard(job)
        self._queue.discard(job)
        self._figures.count_dropped(self._queue)

    def _fail(self, job: Job, error: ApiError) -> None:
        job.fail(error)
        self._forget(job)

    def _fail_all(self, error: ApiError) -> None:
        for job in list(self._jobs):
            self._fail(job, error)

    def _prepare_items(self, texts_only: bool) -> None:
        """Runs in the threads that prepare."""
        while True:
            with self._lock:
                task = None
                while not self._is_closing and task is None:
                    task = self._queue.next_unprepared(texts_only=texts_only)
                    if task is None:
                        self._to_prepare.wait()
            if task is None or self._is_closing:
                return
            self._prepare(task)

    def _prepare(self, task: Task) -> None:
        job, start = task.job, time.perf_counter()
        waited = start - task.since
        try:
            with self._memory.lease() as reserve:
                item = prepare(task.item, task.index, self._preparer, job.options, reserve)
        except Exception as error:  # also a fault of a decoder: the thread has to outlive it
            with self._lock:
                # its request fails as a whole, as with OpenAI: the rest is not embedded
                self._queue.release(task)
                self._fail(job, _preparation_error(error, job.places[task.index]))
            return
        # the bytes of a picture's file are of no use any more
        task.item = _EMPTY
        task.since = time.perf_counter()
        seconds = task.since - start
        self._figures.prepare_seconds.observe(seconds)
        with self._lock:
            job.times.prepare = max(job.times.prepare, seconds)
            job.times.queue = max(job.times.queue, waited)
            self._queue.add_ready(task, item)
            self._to_run.notify()

    def _run_batches(self) -> None:
        """Runs in the thread of the backend."""
        while True:
            with self._lock:
                tasks: list[Task] = []
                while not self._is_closing and self._probe is None and not self._health.is_lost:
                    # formed now, from all that has become ready while the last batch ran
                    tasks = form_batch(self._queue.candidates(), self._batch_tokens)
                    if tasks:
                        break
                    self._to_run.wait()
                if self._is_closing:
                    return
                self._queue.take(tasks)
                # what was taken has made room
                self._to_prepare.notify_all()
                probe = self._probe
            if tasks:
                self._run(tasks)
            elif probe is not None:
                self._answer(probe)
            else:
                self._retry()

    def _run(self, tasks: list[Task]) -> None:
        start = time.perf_counter()
        vectors = self._runner.run([task.prepared for task in tasks if task.prepared is not None])
        seconds = time.perf_counter() - start
        with self._lock:
            # those that wait too: they would wait for their deadline
            if self._health.is_lost:
                self._fail_all(lost_backend())
                return
            for task, vector in zip(tasks, vectors, strict=True):
                job, queued = task.job, start - task.since
                self._figures.queue_seconds.observe(queued)
                job.times.queue = max(job.times.queue, queued)
                job.times.run = max(job.times.run, seconds)
                if vector is None:
                    self._fail(job, failed_item(job.places[task.index]))
                    continue
                assert task.prepared is not None
                job.count(task.prepared, self._preparer.contract.images.merge_size)
                job.store(task.index, vector)
                if job.is_over:
                    self._forget(job)

    def _answer(self, probe: Future[bool]) -> None:
        passed = self._runner.probe()
        with self._lock:
            self._probe = None
            if not passed:
                self._fail_all(lost_backend())
            if probe.set_running_or_notify_cancel():
                probe.set_result(passed)

    def _retry(self) -> None:
        """Waits, and tries a backend that fails once more."""
        with self._lock:
            self._fail_all(lost_backend())
            self._to_run.wait(RETRY_SECONDS)
        if not self._is_closing:
            self._runner.probe()


def _preparation_error(error: Exception, place: str) -> ApiError:
    """Returns what a client is told about an item that could not be prepared."""
    if isinstance(error, InputError):
        return input_problem(error, place)
    if isinstance(error, MemoryError):
        return unavailable("there is not enough memory for the input", "out_of_memory", 5)
    logger.error("an input could not be prepared: %s: %s", type(error).__name__, error)
    return ApiError(500, "the server failed on this input", "internal_error", param=place)
