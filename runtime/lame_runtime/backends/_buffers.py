"""Memory of one worker: GPU buffers by name that only grow, and pinned staging memory for one run at a time."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy.typing as npt

from lame_runtime.backends._cudart import Cudart

_ALIGNMENT = 256
_SMALLEST = 1 << 16


class Buffers:
    """What a stream's work reads and writes.

    Staging memory is handed out in one direction: what a run has queued may not have been copied yet, so nothing is
    handed out twice before `settle`.

    Args:
        cuda: the CUDA runtime.
        stream: on which all work of this worker is queued.
    """

    def __init__(self, cuda: Cudart, stream: int) -> None:
        self._cuda = cuda
        self._stream = stream
        self._device: dict[str, tuple[int, int]] = {}
        self._blocks: list[tuple[int, int]] = []
        self._used = 0

    def device(self, name: str, size: int, *, exact: bool = False) -> int:
        """Address of at least `size` bytes on the GPU, the same as long as they suffice; contents are lost otherwise.

        `exact` leaves no room for larger ones.
        """
        address, capacity = self._device.get(name, (0, 0))
        if size <= capacity:
            return address
        if capacity:
            self._cuda.synchronize(self._stream)  # what is queued may still use the old one
            del self._device[name]
            self._cuda.free(address)
        capacity = size if exact else _grown(size)
        address = self._cuda.malloc(capacity)
        self._device[name] = address, capacity
        return address

    def upload(self, name: str, array: npt.NDArray[Any]) -> int:
        """Queues a copy of a contiguous array to the GPU buffer of that name, and returns its address."""
        address = self.device(name, array.nbytes)
        staged = self.staging(array.nbytes)
        ctypes.memmove(staged, array.ctypes.data, array.nbytes)
        self._cuda.to_device(address, staged, array.nbytes, self._stream)
        return address

    def staging(self, size: int) -> int:
        """Address of `size` pinned bytes that nothing else gets before `settle`."""
        start = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        if not self._blocks or start + size > self._blocks[-1][1]:
            capacity = _grown(size)
            self._blocks.append((self._cuda.malloc_host(capacity), capacity))
            start = 0
        self._used = start + size
        return self._blocks[-1][0] + start

    def settle(self) -> None:
        """Waits for the stream. What lies in staging memory is lost; it is handed out anew, in one block if the run needed several."""
        self._cuda.synchronize(self._stream)
        self._used = 0
        if len(self._blocks) > 1:
            whole = sum(capacity for _, capacity in self._blocks)
            self._free_staging()
            self._blocks.append((self._cuda.malloc_host(whole), whole))

    def _free_staging(self) -> None:
        while self._blocks:
            self._cuda.free_host(self._blocks.pop()[0])

    def close(self) -> None:
        """Gives everything back; nothing may be queued any more."""
        self._free_staging()
        while self._device:
            self._cuda.free(self._device.popitem()[1][0])


def _grown(size: int) -> int:
    """Room for somewhat larger inputs to come."""
    return max(_SMALLEST, size + size // 4)
