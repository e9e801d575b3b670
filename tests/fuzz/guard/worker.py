"""The worker process: runs cases one after the other and reports each outcome."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import warnings
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz.case import Case, placed
from fuzz.guard.watch import (
    Watch,
    forbid_sockets_and_processes,
    give_up_the_rights_of_root,
    make_elsewhere,
    make_module,
    private_temporary_folder,
)
from fuzz.outcome import Outcome, judge

PREPARED = "prepared"
"""Message of a worker when the files of the next case are there."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one case.

    Attributes:
        seconds: seconds until a case counts as hanging.
        megabytes: growth of resident memory at the peak; the bound that the documentation states.
        address_space: bytes of address space of a worker, which keeps the machine usable.
    """

    seconds: float = 10.0
    megabytes: int = 1_000
    address_space: int = 12 << 30


@dataclass(frozen=True)
class Room:
    """The folders of a worker.

    Attributes:
        work: working folder; cases write here.
        elsewhere: folder that nothing may open.
        fixed: files that kinds prepare once, readable by cases.
    """

    work: Path
    elsewhere: Path
    fixed: Path


def work(pipe: Connection, kinds: dict[str, Any], folder: str, limits: Limits) -> None:
    """Runs cases until the pipe closes.

    Args:
        pipe: receives lists of pairs (name of a kind, case); sends "ready" and then, for each case,
            `PREPARED` and its outcome.
        kinds: the kinds by name, not opened yet.
        folder: an empty folder for this worker.
        limits: the bounds.
    """
    _silence()
    room = Room(*(Path(folder) / name for name in ("work", "elsewhere", "work/fixed")))
    make_elsewhere(room.elsewhere)
    room.fixed.mkdir(parents=True)
    os.chdir(room.work)
    private_temporary_folder(room.work / "tmp")
    # a module that a hostile configuration names is found here, as in a user's working folder
    # a wheel that only transformers' processors in other tests need, and that is set up there
    sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(sys.prefix) / "oracle"]
    make_module(Path(folder) / "modules", room.elsewhere)
    sys.path.append(str(Path(folder) / "modules"))
    for kind in kinds.values():
        kind.open(room)
    watch = Watch(
        room.work,
        room.elsewhere,
        lambda event, arguments: any(kind.expects(event, arguments) for kind in kinds.values()),
    )
    give_up_the_rights_of_root()
    forbid_sockets_and_processes(
        sockets_alone=any(kind.starts_processes for kind in kinds.values())
    )
    resource.setrlimit(resource.RLIMIT_AS, (limits.address_space,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    baseline = _status("VmRSS")
    pipe.send("ready")
    while True:
        try:
            batch = pipe.recv()
        except (EOFError, OSError):
            return
        for name, case in batch:
            concrete = placed(case, str(room.elsewhere))
            kinds[name].prepare(concrete)
            # the files of a case may take longer to write than a call may last
            pipe.send(PREPARED)
            pipe.send(_run(kinds[name], case, concrete, watch, limits, baseline))


def _run(
    kind: Any, case: Case, concrete: Case, watch: Watch, limits: Limits, baseline: int
) -> Outcome:
    """Runs one case that has been prepared and returns its outcome."""
    texts = list(_texts(case))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _reset_peak()
        watch.start()
        try:
            outcome = judge(lambda: kind.run(concrete), texts)
        finally:
            event = watch.stop()
    outcome = replace(outcome, megabytes=max(0, (_status("VmHWM") - baseline) >> 10))
    if event:
        outcome = replace(outcome, verdict="outside", text=event)
    elif kind.bounded and outcome.megabytes > limits.megabytes and not outcome.is_fault:
        outcome = replace(outcome, verdict="over memory", text=f"{outcome.megabytes:,} MB")
    kind.clean()
    if _status("VmRSS") - baseline > 200 << 10:
        _trim()
    return outcome


def _silence() -> None:
    """Discards what native libraries print."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _status(name: str) -> int:
    """Returns a figure of /proc/self/status in KiB; the largest resident size if it is missing."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1])
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak() -> None:
    """Makes the kernel forget the largest resident size so far."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write("5")
    except OSError:
        pass


def _trim() -> None:
    """Returns freed memory to the system, which would count as growth of the next case."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
