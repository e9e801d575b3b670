"""CUDA's runtime library through ctypes: memory, streams, copies, captured graphs.

No CUDA Python package is needed, so nothing has to match the system's CUDA but this file. It calls
only functions that have the same signature in CUDA 12 and 13 (NVIDIA, "CUDA Runtime API"). CUDA 11
is not among them: its `cudaGraphInstantiate` has five arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from ctypes import byref, c_char, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

from lame_runtime.backends.device import Device
from lame_runtime.errors import BackendError, DeviceError

# enum cudaMemcpyKind
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3

# cudaStreamNonBlocking: any other stream waits for work on the default stream, which ONNX Runtime,
# PyTorch or TensorRT itself may use in the same process.
_NON_BLOCKING = 1

# cudaStreamCaptureModeThreadLocal: in the global mode, a `cudaMalloc` in any other thread (another
# worker's) would invalidate the capture.
_CAPTURE_THREAD_LOCAL = 1

# enum cudaDeviceAttr
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76

_OUT_OF_MEMORY = 2
_NO_DRIVER = (35, 100)
"""cudaErrorInsufficientDriver (too old, or none) and cudaErrorNoDevice."""

MAJORS = (13, 12)
"""Major versions of CUDA whose library is looked for, in this order."""

DRIVER_VERSION_FILES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))
"""Files whose first line says which driver runs, on Linux and on Jetson Linux."""

MORE_MEMORY = (
    "use a smaller `batch_size`, plans that were built with less `memory`, "
    "or end what else uses the GPU"
)

# ctypes would pass Python integers as 32-bit `int`, which cuts addresses and sizes.
SIGNATURES: dict[str, tuple[Any, ...]] = {
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
"""Argument types of the functions that are called; all of them return a status."""


class Cudart:
    """Calls CUDA's runtime library; every method raises `DeviceError` if CUDA reports an error.

    Args:
        library: the loaded library, or a stand-in for tests; None looks for the system's.
        device: index of the GPU, as CUDA counts them.

    Raises:
        BackendError: no libcudart, no driver (`DeviceError`), or no such GPU.
    """

    def __init__(self, library: Any = None, device: int = 0) -> None:
        self._library = load_cudart() if library is None else library
        count = c_int()
        self._call("cudaGetDeviceCount", byref(count))
        if not 0 <= device < count.value:
            raise BackendError(
                f"GPU {device}: there are {count.value}; use `gpu` 0 to {count.value - 1}, "
                "or make others visible with CUDA_VISIBLE_DEVICES"
            )
        self.index = device
        self.use()

    def use(self) -> None:
        """Makes this GPU the calling thread's; CUDA keeps the choice per thread."""
        self._call("cudaSetDevice", self.index)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == 0:
            return
        # CUDA keeps the last error of a thread until it is read. TensorRT reads it after its own
        # work and would report ours as its own, so it is cleared here.
        self._library.cudaGetLastError()
        description = self._library.cudaGetErrorString(status)
        text = description.decode() if isinstance(description, bytes) else str(description)
        if status == _OUT_OF_MEMORY:
            raise DeviceError(f"out of GPU memory{self._free_memory()}; {MORE_MEMORY}")
        if status in _NO_DRIVER:
            raise DeviceError(
                f"no NVIDIA driver that fits, or no GPU ({text}); "
                "check nvidia-smi, or use backend onnxruntime"
            )
        raise DeviceError(f"CUDA: {name} failed: {text} ({status})")

    def _free_memory(self) -> str:
        """Returns how much memory is free, in brackets; empty if CUDA does not say."""
        free, total = c_size_t(), c_size_t()
        # Not through `_call`: this runs while an error is reported, and must not raise another.
        if self._library.cudaMemGetInfo(byref(free), byref(total)) != 0:
            self._library.cudaGetLastError()
            return ""
        return f" ({free.value / 1e9:.2f} of {total.value / 1e9:.2f} GB are free)"

    def malloc(self, size: int) -> int:
        """Returns the address of `size` new bytes on the GPU."""
        return self._pointer("cudaMalloc", size)

    def free(self, address: int) -> None:
        """Frees GPU memory."""
        self._call("cudaFree", c_void_p(address))

    def malloc_host(self, size: int) -> int:
        """Returns the address of `size` new bytes of pinned host memory.

        Only pinned memory is copied asynchronously: from pageable memory, `cudaMemcpyAsync` blocks.
        """
        return self._pointer("cudaMallocHost", size)

    def free_host(self, address: int) -> None:
        """Frees pinned memory."""
        self._call("cudaFreeHost", c_void_p(address))

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Queues a copy of `size` bytes from pinned memory to the GPU."""
        self._copy(device, host, size, _TO_DEVICE, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Queues a copy of `size` bytes from the GPU to pinned memory."""
        self._copy(host, device, size, _TO_HOST, stream)

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Queues a copy of `size` bytes within the GPU."""
        self._copy(target, source, size, _ON_DEVICE, stream)

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync", c_void_p(target), c_void_p(source), size, kind, c_void_p(stream)
        )

    def zero(self, device: int, size: int, stream: int) -> None:
        """Queues zeroing `size` bytes on the GPU."""
        self._call("cudaMemsetAsync", c_void_p(device), 0, size, c_void_p(stream))

    def stream(self) -> int:
        """Returns a new stream that does not wait for the default stream."""
        return self._pointer("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        """Waits until everything that was queued on the stream has run."""
        self._call("cudaStreamSynchronize", c_void_p(stream))

    def destroy_stream(self, stream: int) -> None:
        """Destroys a stream."""
        self._call("cudaStreamDestroy", c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        """Starts recording: what is queued on the stream from here on is not run."""
        self._call("cudaStreamBeginCapture", c_void_p(stream), _CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Ends recording and returns the recorded work as an executable CUDA graph."""
        graph = self._pointer("cudaStreamEndCapture", first=c_void_p(stream))
        try:
            return self._pointer("cudaGraphInstantiate", c_void_p(graph), 0)
        finally:
            # The executable graph is a copy; the recorded one is not needed any longer.
            self._call("cudaGraphDestroy", c_void_p(graph))

    def launch(self, graph: int, stream: int) -> None:
        """Queues the work of an executable graph."""
        self._call("cudaGraphLaunch", c_void_p(graph), c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Destroys an executable graph."""
        self._call("cudaGraphExecDestroy", c_void_p(graph))

    def describe(self) -> Device:
        """Returns the facts about the GPU that plans and certificates record."""
        # The layout of cudaDeviceProp differs between versions of CUDA, and only its head,
        # name[256] and uuid[16], has stayed. It is about 1 kB long; 16 kB leave room for versions
        # to come.
        properties = (c_char * 16384)()
        # CUDA 12 exports the current layout under a name with _v2 and an old one without; CUDA 13
        # has the name without alone. The head is the same in all of them.
        name = "cudaGetDeviceProperties"
        if hasattr(self._library, f"{name}_v2"):
            name = f"{name}_v2"
        self._call(name, byref(properties), c_int(self.index))
        major, minor = self._attribute(_CAPABILITY_MAJOR), self._attribute(_CAPABILITY_MINOR)
        head = bytes(properties)
        return Device(
            name=head[:256].split(b"\0")[0].decode(errors="replace"),
            uuid=head[256:272].hex(),
            capability=f"sm{major}{minor}",
            driver=self._version("cudaDriverGetVersion"),
            runtime=self._version("cudaRuntimeGetVersion"),
            release=_driver_release(),
        )

    def _version(self, call: str) -> str:
        version = c_int()
        self._call(call, byref(version))
        # 12060 stands for 12.6.
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def _attribute(self, attribute: int) -> int:
        value = c_int()
        self._call("cudaDeviceGetAttribute", byref(value), attribute, self.index)
        return value.value

    def _pointer(self, name: str, *arguments: Any, first: Any = None) -> int:
        """Returns the pointer that a call writes to its first argument, or after `first`."""
        pointer = c_void_p()
        before = () if first is None else (first,)
        self._call(name, *before, byref(pointer), *arguments)
        return pointer.value or 0


def _driver_release() -> str:
    """Returns the driver's own version; empty if the system does not report one.

    An update of the driver may change kernels while the newest CUDA version that it supports stays
    the same, so certificates record both.
    """
    lines = []
    for path in DRIVER_VERSION_FILES:
        with contextlib.suppress(OSError):
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
    return "; ".join(" ".join(line.split()) for line in lines)


@functools.cache
def load_cudart() -> Any:
    """Loads libcudart from the system or from NVIDIA's wheels.

    Raises:
        BackendError: no library could be loaded; the message says why the first one could not.
    """
    reasons, loaded = [], []
    for name in library_candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error).splitlines()[0])
            continue
        for function, arguments in SIGNATURES.items():
            getattr(library, function).argtypes = arguments
        library.cudaGetErrorString.restype = ctypes.c_char_p
        count = c_int()
        if library.cudaGetDeviceCount(byref(count)) == 0:
            return library
        # A library that is newer than the driver supports loads, but answers every call with an
        # error. An older one on the same machine may fit; without one, this one gives the reason.
        loaded.append(library)
    if loaded:
        return loaded[0]
    raise BackendError(
        f"no CUDA runtime library here ({reasons[0]}); "
        f"install CUDA {MAJORS[-1]} or {MAJORS[0]}, or use backend onnxruntime"
    )


def library_candidates() -> list[str]:
    """Returns names for the loader's search path, then files of NVIDIA's wheels."""
    names = [f"libcudart.so.{major}" for major in MAJORS]
    # The wheels put the library beside their Python packages, where no loader looks.
    for folder in sys.path:
        libraries = Path(folder or ".").glob("nvidia/*/lib/libcudart.so.*")
        names += [str(path) for path in sorted(libraries)]
    return names
