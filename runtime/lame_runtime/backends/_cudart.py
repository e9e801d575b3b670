"""CUDA's runtime library through ctypes: memory, one stream, copies, captured graphs. No CUDA Python package is needed.

Only functions that have the same signature in CUDA 12 and 13 are used; see NVIDIA's "CUDA Runtime API".
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from ctypes import byref, c_char, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.errors import BackendError, DeviceError

_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3
_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_OUT_OF_MEMORY = 2
_NO_DRIVER = (35, 100)
"""The driver is too old or missing; no GPU."""
_MAJORS = (13, 12)
_RELEASES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))
"""Where Linux and Jetson Linux say which driver runs, on the first line."""
MORE_MEMORY = "use a smaller batch_size, plans of a smaller memory budget (lame-export engine --memory), or end what else uses the GPU"
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (c_int,),
    "cudaMalloc": (c_void_p, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMallocHost": (c_void_p, c_size_t),
    "cudaFreeHost": (c_void_p,),
    "cudaMemGetInfo": (c_void_p, c_void_p),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaMemsetAsync": (c_void_p, c_int, c_size_t, c_void_p),
    "cudaStreamCreateWithFlags": (c_void_p, c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, c_void_p),
    "cudaGraphInstantiate": (c_void_p, c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGetDeviceCount": (c_void_p,),
    "cudaDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cudaDriverGetVersion": (c_void_p,),
    "cudaRuntimeGetVersion": (c_void_p,),
    "cudaGetLastError": (),
}


@dataclass(frozen=True)
class Device:
    """The GPU that runs."""

    name: str
    uuid: str
    capability: str
    """As in "sm87"."""
    driver: str
    """The newest CUDA the driver knows, as in "12.6"."""
    runtime: str
    """The CUDA of the library that was loaded."""
    release: str = ""
    """What the system says of the driver itself; empty where it says nothing."""


class Cudart:
    """The calls this package needs; each raises `DeviceError` where CUDA reports an error.

    Args:
        library: what ctypes loaded, or a stand-in for tests; None looks for the system's.
        device: which GPU, as CUDA counts them.

    Raises:
        BackendError: no libcudart, no driver (`DeviceError`), or no such GPU.
    """

    def __init__(self, library: Any = None, device: int = 0) -> None:
        self._library = _load() if library is None else library
        count = c_int()
        self._call("cudaGetDeviceCount", byref(count))
        if not 0 <= device < count.value:
            raise BackendError(f"GPU {device}: there are {count.value}; choose one of 0 to {count.value - 1} with CUDA_VISIBLE_DEVICES")
        self.index = device
        self.use()

    def use(self) -> None:
        """Makes this GPU the calling thread's; CUDA keeps the choice per thread."""
        self._call("cudaSetDevice", self.index)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == 0:
            return
        self._library.cudaGetLastError()  # CUDA keeps it for this thread, and TensorRT would take it for its own
        told = self._library.cudaGetErrorString(status)
        text = told.decode() if isinstance(told, bytes) else str(told)
        if status == _OUT_OF_MEMORY:
            raise DeviceError(f"out of GPU memory{self._room()}; {MORE_MEMORY}")
        if status in _NO_DRIVER:
            raise DeviceError(f"no NVIDIA driver that fits, or no GPU ({text}); check nvidia-smi, or use backend onnxruntime")
        raise DeviceError(f"CUDA: {name} failed: {text} ({status})")

    def _room(self) -> str:
        """How much memory is free, where CUDA still says so."""
        free, total = c_size_t(), c_size_t()
        if self._library.cudaMemGetInfo(byref(free), byref(total)) != 0:
            self._library.cudaGetLastError()
            return ""
        return f" ({free.value / 1e9:.2f} of {total.value / 1e9:.2f} GB are free)"

    def malloc(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        return self._pointer("cudaMalloc", size)

    def free(self, address: int) -> None:
        """Gives GPU memory back."""
        self._call("cudaFree", c_void_p(address))

    def malloc_host(self, size: int) -> int:
        """Address of `size` bytes of pinned host memory."""
        return self._pointer("cudaMallocHost", size)

    def free_host(self, address: int) -> None:
        """Gives pinned memory back."""
        self._call("cudaFreeHost", c_void_p(address))

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Queues a copy of `size` bytes from pinned memory to the GPU."""
        self._call("cudaMemcpyAsync", c_void_p(device), c_void_p(host), size, _TO_DEVICE, c_void_p(stream))

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Queues a copy of `size` bytes from the GPU to pinned memory."""
        self._call("cudaMemcpyAsync", c_void_p(host), c_void_p(device), size, _TO_HOST, c_void_p(stream))

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Queues a copy of `size` bytes within the GPU."""
        self._call("cudaMemcpyAsync", c_void_p(target), c_void_p(source), size, _ON_DEVICE, c_void_p(stream))

    def zero(self, device: int, size: int, stream: int) -> None:
        """Queues zeroing `size` bytes on the GPU."""
        self._call("cudaMemsetAsync", c_void_p(device), 0, size, c_void_p(stream))

    def stream(self) -> int:
        """A new stream that does not wait for the default one."""
        return self._pointer("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        """Waits until all that was queued on the stream is done."""
        self._call("cudaStreamSynchronize", c_void_p(stream))

    def destroy_stream(self, stream: int) -> None:
        """Ends a stream."""
        self._call("cudaStreamDestroy", c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        """From here on, what is queued is recorded instead of run."""
        self._call("cudaStreamBeginCapture", c_void_p(stream), _CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """The recorded work, ready to be launched again and again."""
        graph = self._pointer("cudaStreamEndCapture", first=c_void_p(stream))
        try:
            return self._pointer("cudaGraphInstantiate", c_void_p(graph), 0)
        finally:
            self._call("cudaGraphDestroy", c_void_p(graph))

    def launch(self, graph: int, stream: int) -> None:
        """Queues recorded work."""
        self._call("cudaGraphLaunch", c_void_p(graph), c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Forgets recorded work."""
        self._call("cudaGraphExecDestroy", c_void_p(graph))

    def describe(self) -> Device:
        """Facts of the GPU for plans and certificates."""
        properties = (c_char * 16384)()  # cudaDeviceProp begins with name[256] and uuid[16] and is about 1 kB long
        name = "cudaGetDeviceProperties_v2" if hasattr(self._library, "cudaGetDeviceProperties_v2") else "cudaGetDeviceProperties"
        self._call(name, byref(properties), c_int(self.index))
        major, minor = self._attribute(_CAPABILITY_MAJOR), self._attribute(_CAPABILITY_MINOR)
        driver, runtime = self._version("cudaDriverGetVersion"), self._version("cudaRuntimeGetVersion")
        raw = bytes(properties)
        shown = raw[:256].split(b"\0")[0].decode(errors="replace")
        return Device(shown, raw[256:272].hex(), f"sm{major}{minor}", driver, runtime, _release())

    def _version(self, call: str) -> str:
        version = c_int()
        self._call(call, byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def _attribute(self, which: int) -> int:
        value = c_int()
        self._call("cudaDeviceGetAttribute", byref(value), which, self.index)
        return value.value

    def _pointer(self, name: str, *arguments: Any, first: Any = None) -> int:
        """The pointer that a call writes to its first argument, or to the one behind `first`."""
        pointer = c_void_p()
        before = () if first is None else (first,)
        self._call(name, *before, byref(pointer), *arguments)
        return pointer.value or 0


def _release() -> str:
    """The driver's own version: an update changes it where the newest CUDA it knows stays the same."""
    lines = []
    for path in _RELEASES:
        with contextlib.suppress(OSError):
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
    return "; ".join(" ".join(line.split()) for line in lines)


@functools.cache
def _load() -> Any:
    """The library of the system, or of NVIDIA's wheels; raises `BackendError`."""
    tried, loaded = [], []
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            tried.append(str(error).splitlines()[0])
            continue
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments
        library.cudaGetErrorString.restype = ctypes.c_char_p
        count = c_int()
        if library.cudaGetDeviceCount(byref(count)) == 0:
            return library
        loaded.append(library)  # newer than the driver, perhaps; an older one may fit
    if loaded:
        return loaded[0]
    raise BackendError(f"no CUDA runtime library here ({tried[0]}); install CUDA {_MAJORS[-1]} or {_MAJORS[0]}, or use backend onnxruntime")


def _candidates() -> list[str]:
    """Names for the loader's search path, then files of the wheels nvidia-cuda-runtime installs."""
    names = [f"libcudart.so.{major}" for major in _MAJORS]
    for place in sys.path:
        names += [str(path) for path in sorted(Path(place or ".").glob("nvidia/*/lib/libcudart.so.*"))]
    return names
