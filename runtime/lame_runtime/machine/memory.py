"""Memory: how much this process may still take, and the most that it has held.

Containers limit memory by control groups, whose files tell more than the machine's own figures: a
process that takes more than its group has is killed, however much memory the machine has free.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

GIB = 1 << 30
_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""Limits from here on stand for none; control groups of version 1 write almost 2⁶³."""


def available_memory() -> int | None:
    """Returns the bytes that this process may still take before the system has to kill something.

    Pages of files that the system can drop count as free. The figure is the least of the machine's
    and that of every control group around the process; None if the system tells neither, as on
    macOS and Windows.
    """
    machine = _kilobytes(_PROC / "meminfo", "MemAvailable")
    rooms = [] if machine is None else [machine]
    for folder, limit, usage in _group_files():
        most, used = _number(folder / limit), _number(folder / usage)
        if most is not None and used is not None and most < _UNLIMITED:
            rooms.append(max(0, most - used + _dropped_first(folder)))
    return min(rooms, default=None)


def peak_memory() -> int | None:
    """Returns the most bytes that were resident since the start, or since `reset_peak_memory`.

    Pages that are mapped from files count, although the system can drop them. None if the system
    does not tell.
    """
    return _kilobytes(_PROC / "self/status", "VmHWM")


def resident_memory() -> int | None:
    """Returns the bytes that are resident now; None if the system does not tell."""
    return _kilobytes(_PROC / "self/status", "VmRSS")


def reset_peak_memory() -> bool:
    """Resets the peak to what is resident now; returns whether that worked."""
    # 5 resets this one mark, see proc_pid_clear_refs(5); the file is missing in some sandboxes,
    # where the peak only grows
    try:
        (_PROC / "self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def return_freed_memory() -> None:
    """Returns memory that this process has freed to the system, if the C library is glibc.

    glibc keeps what a thread freed for that thread, and holes between what is still in use.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    # Windows has no such library, and other C libraries have no such function
    except (AttributeError, OSError, TypeError):
        return lambda _: None
    return trim


def file_size(path: Path) -> int:
    """Returns the size of a file in bytes; 0 if it is missing or may not be looked at."""
    try:
        return path.stat().st_size
    # who opens it reports that
    except OSError:
        return 0


def _group_files() -> Iterator[tuple[Path, str, str]]:
    """Yields the folder of each control group around this process, and its two files' names."""
    for line in _text(_PROC / "self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            root, limit, usage = _GROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = _GROUPS / "memory"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # in a container the path is the host's, and may not exist; the root is then the group
        folder = root / os.path.normpath(path).lstrip("/.")
        while folder != root and root in folder.parents:
            yield folder, limit, usage
            folder = folder.parent
        yield root, limit, usage


def _dropped_first(group: Path) -> int:
    """Returns the bytes of files that a group counts as used and drops before it kills anything."""
    lines = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines())
    # version 1 has the sums over the groups inside under names of their own
    names = ("total_inactive_file", "total_active_file")
    if not lines.keys() & set(names):
        names = ("inactive_file", "active_file")
    return sum(int(lines[name]) for name in names if lines.get(name, "").isdigit())


def _kilobytes(path: Path, name: str) -> int | None:
    """Returns a figure of a file of lines such as `MemAvailable: 1024 kB`, in bytes."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        number = value.split(maxsplit=1)[:1]
        if key == name and number and number[0].isdigit():
            return int(number[0]) * 1024
    return None


def _number(path: Path) -> int | None:
    """Returns the number that a file holds; None for "max" and for a file that is missing."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
