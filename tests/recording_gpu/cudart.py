"""libcudart as a recording stand-in: host memory, and streams that run when they are waited for."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 1, 2, 100
ANYWHERE = {"cudaGetDeviceCount", "cudaSetDevice", "cudaDriverGetVersion", "cudaRuntimeGetVersion"}
"""Functions that may be called before the thread has chosen a GPU."""
OWNED = ("live", "streams", "graphs", "executables", "engines", "contexts")
"""Attributes of `RecordingCudart` that must be empty when everything was released."""


class GpuMisuseError(AssertionError):
    """A call that a real GPU would answer with a crash, with silence or with wrong numbers."""


@dataclass
class Block:
    """Allocated memory."""

    kind: str
    """"device" or "pinned"."""
    memory: Any
    size: int


@dataclass(frozen=True)
class Work:
    """An operation in a stream, and the blocks that it reads and writes."""

    run: Callable[[], None]
    uses: frozenset[int]
    """Addresses of the blocks."""
    holds: Callable[[], bool] = lambda: True
    """Whether it may still be replayed once it was recorded."""


@dataclass
class Stream:
    """Queued work; while a thread records, the work of the graph under construction."""

    work: list[Work] = field(default_factory=list)
    recording: list[Work] | None = None
    recorder: int = 0
    """Identifier of the thread that records."""


class RecordingCudart:
    """Stands in for the library that ctypes loads; names and arguments are those of CUDA 12 and 13.

    Args:
        total: bytes of GPU memory.
        name: the GPU's name.
        capability: major and minor compute capability.
        devices: number of GPUs.
    """

    def __init__(
        self,
        total: int = 1 << 28,
        name: str = "Recorded GPU",
        capability: tuple[int, int] = (8, 6),
        devices: int = 1,
    ) -> None:
        self.total, self.name, self.capability, self.devices = total, name, capability, devices
        self.live: dict[int, Block] = {}
        self.freed: dict[int, Block] = {}
        """Freed blocks, never reused and full of NaN, so that a read after the end shows."""
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.calls: Counter[str] = Counter()
        """Number of calls of each function."""
        self.fail: dict[str, int] = {}
        """Status that the next call of a function returns, once."""
        self.broken: dict[str, int] = {}
        """Status that all calls of a function return from now on."""
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        """TensorRT's engines that are still referenced."""
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        """TensorRT's execution contexts that are still referenced."""
        self.context_changes = 0
        """Number of profiles, shapes and addresses that execution contexts were given."""
        self.profiles_run: Counter[tuple[str, int]] = Counter()
        """Number of runs that TensorRT queued, by part ("vision", "encoder") and profile."""
        self._handles = iter(range(1, 1 << 30))
        self._lock = threading.RLock()
        self._current = threading.local()

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        # These two report on other calls, and never fail themselves.
        if not name.startswith("cuda") or name in ("cudaGetErrorString", "cudaGetLastError"):
            return value

        def counted(*arguments: Any) -> int:
            with self._lock:
                self.calls[name] += 1
                status = self._answer(name, value, arguments)
                if status:
                    self._current.error = status
                return status

        return counted

    def _answer(self, name: str, function: Callable[..., int], arguments: tuple[Any, ...]) -> int:
        if name in self.broken or name in self.fail:
            if name == "cudaStreamEndCapture":  # a real one ends the capture even if it fails
                self._stream(arguments[0]).recording = None
            return self.broken[name] if name in self.broken else self.fail.pop(name)
        if name not in ANYWHERE and getattr(self._current, "device", None) is None:
            raise GpuMisuseError(f"{name}: no GPU was chosen in this thread")
        return function(*arguments)

    @property
    def error(self) -> int:
        """The status of this thread's last failed call, until `cudaGetLastError` clears it."""
        return int(getattr(self._current, "error", 0))

    def cudaGetLastError(self) -> int:
        """Returns the thread's last error and clears it."""
        error, self._current.error = self.error, 0
        return error

    def cudaGetErrorString(self, error: int) -> bytes:
        """Returns the text of a status."""
        return {
            INVALID_VALUE: b"invalid argument",
            OUT_OF_MEMORY: b"out of memory",
            NO_DEVICE: b"no CUDA-capable device",
        }.get(error, b"unknown error")

    def cudaGetDeviceCount(self, count: Any) -> int:
        """Writes the number of GPUs."""
        count._obj.value = self.devices
        return 0 if self.devices else NO_DEVICE

    def cudaSetDevice(self, device: int) -> int:
        """Sets the calling thread's GPU."""
        self._current.device = device
        return 0

    def cudaGetDeviceProperties_v2(self, prop: Any, device: Any) -> int:
        """Writes name and UUID, which come first in the structure."""
        del device
        ctypes.memmove(prop, self.name.encode().ljust(256, b"\0") + bytes(range(16)), 272)
        return 0

    def cudaDeviceGetAttribute(self, value: Any, attr: int, device: int) -> int:
        """Writes the major or minor compute capability."""
        del device
        value._obj.value = self.capability[{75: 0, 76: 1}[attr]]
        return 0

    def cudaDriverGetVersion(self, driverVersion: Any) -> int:
        """Writes CUDA 12.6."""
        driverVersion._obj.value = 12060
        return 0

    def cudaRuntimeGetVersion(self, runtimeVersion: Any) -> int:
        """Writes CUDA 12.6."""
        runtimeVersion._obj.value = 12060
        return 0

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:
        """Writes the free and the total bytes."""
        free._obj.value, total._obj.value = self.total - self._allocated(), self.total
        return 0

    def _allocated(self) -> int:
        return sum(block.size for block in self.live.values() if block.kind == "device")

    def cudaMalloc(self, devPtr: Any, size: int) -> int:
        """Allocates GPU memory, full of NaN."""
        if size + self._allocated() > self.total:
            return OUT_OF_MEMORY
        return self._allocate("device", devPtr, size)

    def cudaMallocHost(self, ptr: Any, size: int) -> int:
        """Allocates pinned memory, full of NaN."""
        return self._allocate("pinned", ptr, size)

    def _allocate(self, kind: str, pointer: Any, size: int) -> int:
        if size <= 0:
            raise GpuMisuseError(f"{size} bytes of {kind} memory were asked for")
        self._require_no_recording(f"allocating {kind} memory")
        memory = (ctypes.c_ubyte * (size + 256))()
        # All bits set is NaN in FP32 and FP16: memory that is read before it is written shows.
        ctypes.memset(memory, 0xFF, size + 256)
        address = -(-ctypes.addressof(memory) // 256) * 256
        self.live[address] = Block(kind, memory, size)
        pointer._obj.value = address
        return 0

    def cudaFree(self, devPtr: Any) -> int:
        """Frees GPU memory."""
        return self._free("device", devPtr.value)

    def cudaFreeHost(self, ptr: Any) -> int:
        """Frees pinned memory."""
        return self._free("pinned", ptr.value)

    def _free(self, kind: str, address: int) -> int:
        self._require_no_recording(f"freeing {kind} memory")
        if address in self.freed:
            raise GpuMisuseError(f"{kind} memory is freed twice")
        if address not in self.live or self.live[address].kind != kind:
            raise GpuMisuseError(f"what is freed is no {kind} memory")
        if any(address in work.uses for stream in self.streams.values() for work in stream.work):
            raise GpuMisuseError(f"{kind} memory is freed while queued work uses it")
        if any(
            context._scratch is not None and context._scratch[0] == address
            for context in self.contexts
        ):
            raise GpuMisuseError(f"{kind} memory is freed that a living context was given")
        block = self.live.pop(address)
        ctypes.memset(block.memory, 0xFF, len(block.memory))
        self.freed[address] = block
        return 0

    def cudaStreamCreateWithFlags(self, pStream: Any, flags: int) -> int:
        """Creates a stream that does not wait for the default one."""
        if flags != 1:
            raise GpuMisuseError("a stream that waits for the default stream")
        pStream._obj.value = handle = next(self._handles)
        self.streams[handle] = Stream()
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:
        """Runs what is queued."""
        queued = self._stream(stream)
        if queued.recording is not None:
            raise GpuMisuseError("a stream is waited for while it records")
        pending, queued.work = queued.work, []
        for work in pending:
            work.run()
        return 0

    def cudaStreamDestroy(self, stream: Any) -> int:
        """Destroys a stream."""
        if self._stream(stream).work:
            raise GpuMisuseError("a stream is destroyed with work in it")
        del self.streams[stream.value]
        return 0

    def cudaMemcpyAsync(self, dst: Any, src: Any, count: int, kind: int, stream: Any) -> int:
        """Queues a copy between pinned and GPU memory."""
        target, source = {
            1: ("device", "pinned"),
            2: ("pinned", "device"),
            3: ("device", "device"),
        }[kind]

        def copy() -> None:
            # Checked again when it runs: memory may have been freed since it was queued.
            self.check(dst.value, count, target)
            self.check(src.value, count, source)
            ctypes.memmove(dst.value, src.value, count)

        self.queue(
            stream.value,
            copy,
            self.check(dst.value, count, target),
            self.check(src.value, count, source),
        )
        return 0

    def cudaMemsetAsync(self, devPtr: Any, value: int, count: int, stream: Any) -> int:
        """Queues filling GPU memory."""

        def fill() -> None:
            self.check(devPtr.value, count, "device")
            ctypes.memset(devPtr.value, value, count)

        self.queue(stream.value, fill, self.check(devPtr.value, count, "device"))
        return 0

    def cudaStreamBeginCapture(self, stream: Any, mode: int) -> int:
        """Starts recording the stream's work."""
        if mode not in (0, 1, 2):
            raise GpuMisuseError(f"capture mode {mode}")
        self._stream(stream).recording, self._stream(stream).recorder = [], threading.get_ident()
        return 0

    def cudaStreamEndCapture(self, stream: Any, pGraph: Any) -> int:
        """Writes the recorded graph."""
        recorded = self._stream(stream)
        if not recorded.recording:
            raise GpuMisuseError("a capture ends that recorded nothing")
        pGraph._obj.value = handle = next(self._handles)
        self.graphs[handle], recorded.recording = recorded.recording, None
        return 0

    def cudaGraphInstantiate(self, pGraphExec: Any, graph: Any, flags: int) -> int:
        """Writes an executable copy of a graph."""
        if flags:
            raise GpuMisuseError(f"flags {flags}")
        pGraphExec._obj.value = handle = next(self._handles)
        self.executables[handle] = self.graphs[graph.value]
        return 0

    def cudaGraphDestroy(self, graph: Any) -> int:
        """Destroys a graph."""
        del self.graphs[graph.value]
        return 0

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> int:
        """Queues the work of an executable graph."""
        if graphExec.value not in self.executables:
            raise GpuMisuseError("a graph is launched that was destroyed")
        if not all(work.holds() for work in self.executables[graphExec.value]):
            raise GpuMisuseError("a recorded graph is launched after its context was changed")
        self._stream(stream).work += self.executables[graphExec.value]
        return 0

    def cudaGraphExecDestroy(self, graphExec: Any) -> int:
        """Destroys an executable graph."""
        recorded = self.executables[graphExec.value]
        if any(work in recorded for stream in self.streams.values() for work in stream.work):
            raise GpuMisuseError("a graph is destroyed while it is queued")
        del self.executables[graphExec.value]
        return 0

    def queue(
        self,
        stream: int,
        work: Callable[[], None],
        *uses: int,
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        """Puts work on a stream, or into the graph that it records.

        Args:
            stream: the stream's handle.
            work: the work.
            uses: addresses of the blocks that it reads and writes.
            holds: whether it may be replayed once it was recorded.
        """
        queued = self._stream(ctypes.c_void_p(stream))
        target = queued.work if queued.recording is None else queued.recording
        target.append(Work(work, frozenset(uses), holds))

    def recording(self, stream: int) -> bool:
        """Returns whether the stream records."""
        return self._stream(ctypes.c_void_p(stream)).recording is not None

    def check(self, address: int | None, size: int, kind: str) -> int:
        """Returns the start of the live block of a kind that holds `size` bytes at `address`."""
        for start, block in self.live.items():
            if (
                block.kind == kind
                and address is not None
                and start <= address
                and address + size <= start + block.size
            ):
                return start
        raise GpuMisuseError(f"{size} bytes at {address}: no live {kind} memory")

    def assert_released(self) -> None:
        """Raises `GpuMisuseError` if memory, streams, graphs, engines or contexts are left."""
        gc.collect()  # engines and contexts are counted until Python frees them
        left = [
            f"{len(owned)} {name}"
            for name, owned in vars(self).items()
            if name in OWNED and len(owned)
        ]
        if left:
            raise GpuMisuseError(f"never released: {', '.join(left)}")

    def _stream(self, stream: Any) -> Stream:
        if stream.value not in self.streams:
            raise GpuMisuseError("a stream is used that does not live")
        return self.streams[stream.value]

    def _require_no_recording(self, action: str) -> None:
        # In thread-local capture mode only the recording thread must not allocate or free.
        thread = threading.get_ident()
        if any(
            stream.recording is not None and stream.recorder == thread
            for stream in self.streams.values()
        ):
            raise GpuMisuseError(f"{action} while the thread records")
