"""The workers of a campaign: feeds them, ends those that hang, and starts others."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from fuzz.case import Case
from fuzz.guard.worker import Limits, work
from fuzz.outcome import Outcome

START_SECONDS = 180
"""Seconds until a worker must have loaded its libraries, or written the files of a case."""
END_SECONDS = 2
"""Seconds until a worker that has nothing to do must have ended."""
MOST_SECONDS = 6
"""Factor on the limit after which a case hangs even if other processes took the processor."""

Named = tuple[str, Case]


class Worker:
    """One worker process and the cases that it has been given."""

    def __init__(self, kinds: dict[str, Any], folder: Path, limits: Limits) -> None:
        self._kinds, self._folder, self._limits = kinds, folder, limits
        self._starts = 0
        self.waiting: deque[Named] = deque()
        self._start()

    def _start(self) -> None:
        self._starts += 1
        room = self._folder / str(self._starts)
        room.mkdir(parents=True)
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=work, args=(theirs, self._kinds, str(room), self._limits), daemon=True
        )
        self._process.start()
        theirs.close()
        if not self.pipe.poll(START_SECONDS) or self.pipe.recv() != "ready":
            raise RuntimeError(f"a worker for {', '.join(self._kinds)} did not start")

    def give(self, cases: list[Named]) -> None:
        """Hands over cases."""
        self.waiting.extend(cases)
        self._prepared = False
        self._began()
        self.pipe.send(cases)

    def read(self) -> tuple[Named, Outcome] | None:
        """Returns a case and its outcome, or None if its files have just been written.

        A worker that ended is started again.
        """
        try:
            outcome: Outcome | str = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return self._restart(_death(self._process.exitcode))
        self._began()
        self._prepared = isinstance(outcome, str)
        if isinstance(outcome, str):
            return None
        named = self.waiting.popleft()
        if outcome.verdict == "over memory" or outcome.text.startswith("MemoryError"):
            # what such a case leaves behind must not be charged to the next one
            return self._restart(outcome, named)
        return named, outcome

    def overdue(self) -> tuple[Named, Outcome] | None:
        """Returns the current case if it hangs; the worker is then started again."""
        seconds = time.monotonic() - self._since
        most = self._limits.seconds if self._prepared else START_SECONDS
        if not self.waiting or seconds < most:
            return None
        spent = _processor_seconds(self._process.pid) - self._spent
        # a process that neither works nor waits for something only lacks the processor
        starved = 0.05 * seconds < spent < 0.9 * self._limits.seconds
        if starved and seconds < MOST_SECONDS * self._limits.seconds:
            return None
        return self._restart(Outcome("hang", f"after {self._limits.seconds:g} s"))

    def _restart(self, outcome: Outcome, named: Named | None = None) -> tuple[Named, Outcome]:
        self._stop()
        named = named or self.waiting.popleft()
        rest = list(self.waiting)
        self.waiting.clear()
        self._start()
        if rest:
            self.give(rest)
        return named, outcome

    def _began(self) -> None:
        self._since = time.monotonic()
        self._spent = _processor_seconds(self._process.pid)

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()
        shutil.rmtree(self._folder / str(self._starts), ignore_errors=True)

    def close(self) -> None:
        """Ends the process, which then releases what it shares with this one."""
        self.pipe.close()
        self._process.join(END_SECONDS)
        with contextlib.suppress(OSError):
            self._stop()


class Pool:
    """Workers that share the cases of one group of kinds.

    Args:
        kinds: the kinds by name; each worker opens all of them.
        jobs: number of workers.
        limits: the bounds of a case.
    """

    def __init__(self, kinds: dict[str, Any], jobs: int = 1, limits: Limits | None = None) -> None:
        # in memory if that is possible, because many cases write a bundle
        shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared))
        self._workers: list[Worker] = []
        try:
            for index in range(jobs):
                folder = self._folder / str(index)
                self._workers.append(Worker(kinds, folder, limits or Limits()))
        except BaseException:
            self.close()
            raise

    def run(self, batches: Iterator[list[Named]]) -> Iterator[tuple[str, Case, Outcome]]:
        """Yields kind, case and outcome of every case of the batches, as they end."""
        for worker in self._workers:
            _feed(worker, batches)
        while busy := [worker for worker in self._workers if worker.waiting]:
            pipes: dict[Connection, Worker] = {worker.pipe: worker for worker in busy}
            ready = wait(list(pipes), timeout=0.5)
            results = [pipes[pipe].read() for pipe in ready]  # type: ignore[index]
            results += [worker.overdue() for worker in busy if worker.pipe not in ready]
            for (name, case), outcome in filter(None, results):
                yield name, case, outcome
            for worker in busy:
                if not worker.waiting:
                    _feed(worker, batches)

    def one(self, name: str, case: Case) -> Outcome:
        """Returns the outcome of a single case."""
        ((_, _, outcome),) = self.run(iter([[(name, case)]]))
        return outcome

    def close(self) -> None:
        """Ends the workers and removes their folders."""
        for worker in self._workers:
            worker.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _feed(worker: Worker, batches: Iterator[list[Named]]) -> None:
    batch = next(batches, None)
    if batch:
        worker.give(batch)


def _death(code: int | None) -> Outcome:
    """Returns the verdict on a worker that ended by itself."""
    if code is None or code >= 0:
        return Outcome("died", f"exit code {code}")
    name = signal.Signals(-code).name
    # the filter of system calls ends a process this way
    if name == "SIGSYS":
        return Outcome("outside", "made a socket or started a program")
    return Outcome("died", name)


def _processor_seconds(pid: int | None) -> float:
    """Returns the seconds that a process has spent on the processor; 0 where that is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100
