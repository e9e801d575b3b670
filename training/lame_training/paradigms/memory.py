"""Peak memory of a piece of work beyond what was held before it: weights, inputs and other programs do not count.

On a GPU this is the allocator's own count. On a CPU it is the growth of the process's resident memory, whose peak Linux lets
a process reset; free heap is given back first, so that what an earlier program left is not reused unseen.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path
from types import TracebackType

import torch


class PeakMemory:
    """A context manager; afterwards `mib` is the peak in MiB, None where the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mib: float | None = None
        self._before: int | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        elif _reset_resident_peak():
            self._before = _resident("VmRSS")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is None or kind is not None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak: int | None = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _resident("VmHWM")
        if peak is not None:
            self.mib = max(0, peak - self._before) / 2**20


def _reset_resident_peak() -> bool:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's; another C library keeps its heap, which makes the figure a lower bound
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident(field: str) -> int | None:
    """Bytes, from /proc/self/status."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
