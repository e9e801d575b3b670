"""Memory of one stream: named GPU buffers that only grow, and pinned memory for one run."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy.typing as npt

from lame_runtime.backends.tensorrt.cudart import Cudart

# `cudaMalloc` aligns to 256 bytes, and TensorRT requires it of a tensor's address. Pieces of pinned
# memory begin at such boundaries too, so that both ends of a copy are aligned.
_ALIGNMENT = 256

_SMALLEST = 1 << 16
"""Bytes of the smallest buffer, so that short inputs do not reallocate it step by step."""


class Buffers:
    """Memory that the work on one stream reads and writes.

    Pinned memory is handed out in one direction only. What a run has queued may not have been
    copied yet, so nothing is handed out twice before `settle`.

    Args:
        cuda: the CUDA runtime.
        stream: the stream on which everything that uses this memory is queued.
    """

    def __init__(self, cuda: Cudart, stream: int) -> None:
        self.cuda = cuda
        self.stream = stream
        self._device: dict[str, tuple[int, int]] = {}
        """Address and capacity of each GPU buffer."""
        self._blocks: list[tuple[int, int]] = []
        """Address and capacity of each block of pinned memory; only the last has room."""
        self._used = 0
        """Bytes of the last block that were handed out."""

    def device(self, name: str, size: int, *, exact: bool = False) -> int:
        """Returns the address of the GPU buffer `name`, of at least `size` bytes.

        The address stays the same as long as the buffer is large enough. A larger buffer replaces
        it and the contents are lost.

        Args:
            name: the buffer's name.
            size: bytes that are needed now.
            exact: allocate no more than `size`; for buffers whose largest size is known.
        """
        address, capacity = self._device.get(name, (0, 0))
        if size <= capacity:
            return address
        if capacity:
            self.cuda.synchronize(self.stream)  # work that is queued may still use the old one
            del self._device[name]
            self.cuda.free(address)
        capacity = size if exact else _with_room(size)
        address = self.cuda.malloc(capacity)
        self._device[name] = address, capacity
        return address

    def upload(self, name: str, array: npt.NDArray[Any]) -> int:
        """Queues a copy of a contiguous array to the GPU buffer `name` and returns its address."""
        address = self.device(name, array.nbytes)
        # Through pinned memory: the copy is asynchronous, and the caller may reuse its array.
        staged = self.staging(array.nbytes)
        ctypes.memmove(staged, array.ctypes.data, array.nbytes)
        self.cuda.to_device(address, staged, array.nbytes, self.stream)
        return address

    def staging(self, size: int) -> int:
        """Returns the address of `size` pinned bytes, which are the caller's until `settle`."""
        start = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        if not self._blocks or start + size > self._blocks[-1][1]:
            # A new block in addition to the full one, which queued copies still read.
            capacity = _with_room(size)
            self._blocks.append((self.cuda.malloc_host(capacity), capacity))
            start = 0
        self._used = start + size
        return self._blocks[-1][0] + start

    @property
    def staging_blocks(self) -> int:
        """Number of blocks of pinned memory; more than one only between a run and `settle`."""
        return len(self._blocks)

    def settle(self) -> None:
        """Waits for the stream, then makes all pinned memory available again."""
        self.cuda.synchronize(self.stream)
        self._used = 0
        if len(self._blocks) > 1:
            # One block of the same size, so that a run like this one never needs several again.
            capacity = sum(capacity for _, capacity in self._blocks)
            self._free_staging()
            self._blocks.append((self.cuda.malloc_host(capacity), capacity))

    def _free_staging(self) -> None:
        # Each block leaves the list before it is freed: an error then frees no block twice.
        while self._blocks:
            self.cuda.free_host(self._blocks.pop()[0])

    def close(self) -> None:
        """Frees everything. The stream must be idle."""
        self._free_staging()
        while self._device:
            self.cuda.free(self._device.popitem()[1][0])


def _with_room(size: int) -> int:
    """Returns a size with room for somewhat larger inputs, so that few of them reallocate."""
    return max(_SMALLEST, size + size // 4)
