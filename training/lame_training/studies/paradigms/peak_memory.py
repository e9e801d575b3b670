"""Measures the peak memory of a piece of work, and tells when memory ran out.

The peak is beyond what was held before the work: weights, inputs and other programs do not count.
On a GPU the figure is the allocator's own. On a CPU it is the growth of the process's resident
memory, the peak of which Linux lets a process reset.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import torch
from lame_runtime.machine.memory import (
    peak_memory,
    reset_peak_memory,
    resident_memory,
    return_freed_memory,
)

T = TypeVar("T")
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
"""Parts of the messages of a `RuntimeError` that means: out of memory."""


class PeakMemory:
    """A context manager that measures peak memory of its block.

    Afterward `mib` is the peak in MiB, or None if the system does not report it or the block raised
    an error.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mib: float | None = None
        self._before: int | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            # earlier work that is still queued would be counted
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            # free heap goes back to the system first: otherwise the work could reuse what an
            # earlier program left, without any growth
            return_freed_memory()
            if reset_peak_memory():
                self._before = resident_memory()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is None or kind is not None:
            return
        # kernels run after the calls that queue them have returned
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak: int | None = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = peak_memory()
        if peak is not None:
            # proc(5) calls these fields inaccurate: work that takes nothing can look negative
            self.mib = max(0, peak - self._before) / 2**20


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """Returns what `work` returns, or None if memory ran out. Other errors pass."""
    try:
        return work()
    except (MemoryError, torch.OutOfMemoryError):
        pass
    except RuntimeError as error:
        # the CPU's allocator and CUDA graphs raise no class of their own
        if not any(part in str(error) for part in OUT_OF_MEMORY):
            raise
    # Outside the handler: the traceback keeps the tensors of the failed work alive until then.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
