"""CUDA calls on a real GPU: the names, addresses and layouts that ctypes passes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from lame_runtime.backends.tensorrt.cudart import Cudart
from lame_runtime.errors import BackendError, DeviceError

FIELDS = "name,uuid,compute_cap,driver_version"


def _smi() -> list[str]:
    """Returns the fields of the first GPU, from NVIDIA's own tool; empty without a GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    result = subprocess.run(
        ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader", "-i", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    fields = result.stdout.split(",")
    return [field.strip() for field in fields] if result.returncode == 0 else []


GPU = _smi()
pytestmark = pytest.mark.skipif(not GPU, reason="no GPU")


def test_the_device_is_the_one_that_nvidia_smi_names() -> None:
    """Name, UUID, compute capability and driver agree with NVIDIA's own tool."""
    name, uuid, capability, driver = GPU
    device = Cudart().describe()
    assert device.name == name
    assert device.uuid == uuid.removeprefix("GPU-").replace("-", "")
    assert device.capability == "sm" + capability.replace(".", "")
    assert driver in device.release
    assert int(device.runtime.split(".")[0]) <= int(device.driver.split(".")[0])


def test_copies_and_a_recorded_graph_do_what_they_say() -> None:
    """Host → GPU → GPU → host gives the right values, also recorded once and launched on others."""
    cuda = Cudart()
    stream, size = cuda.stream(), 4 * 1000
    hosts = [cuda.malloc_host(size) for _ in range(2)]
    devices = [cuda.malloc(size) for _ in range(2)]
    source, target = (
        np.ctypeslib.as_array(ctypes.cast(host, ctypes.POINTER(ctypes.c_float)), (1000,))
        for host in hosts
    )

    def queue() -> None:
        cuda.to_device(devices[0], hosts[0], size, stream)
        cuda.on_device(devices[1], devices[0], size, stream)
        cuda.zero(devices[1], size // 2, stream)
        cuda.to_host(hosts[1], devices[1], size, stream)

    source[:] = np.arange(1000)
    target[:] = -1
    queue()
    cuda.synchronize(stream)
    assert np.array_equal(target, np.where(np.arange(1000) < 500, 0, np.arange(1000)))
    cuda.begin_capture(stream)
    queue()
    graph = cuda.end_capture(stream)
    for factor in (2, 3):
        source[:] = factor * np.arange(1000)
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert target[499] == 0
        assert np.array_equal(target[500:], factor * np.arange(500, 1000))
    cuda.destroy_graph(graph)
    for address in devices:
        cuda.free(address)
    for address in hosts:
        cuda.free_host(address)
    cuda.destroy_stream(stream)


def test_running_out_of_memory_is_one_line_and_ends_nothing() -> None:
    """The error says how much is free, and the next allocation works."""
    cuda = Cudart()
    with pytest.raises(
        DeviceError,
        match=r"out of GPU memory \(\d+\.\d\d of \d+\.\d\d GB are free\); "
        "use a smaller `batch_size`",
    ):
        cuda.malloc(1 << 50)
    cuda.free(cuda.malloc(1024))


def test_a_gpu_that_is_not_there_is_named() -> None:
    """The error gives the index and the number of GPUs."""
    with pytest.raises(BackendError, match="GPU 99: there are"):
        Cudart(device=99)
