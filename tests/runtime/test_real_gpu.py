"""What only a GPU can show of the CUDA calls: the names, addresses and layouts that ctypes is told. Skipped where there is none."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from lame_runtime.backends._cudart import Cudart
from lame_runtime.errors import BackendError, DeviceError

FIELDS = "name,uuid,compute_cap,driver_version"


def _smi() -> list[str]:
    """The first GPU as NVIDIA's own tool names it; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader", "-i", "0"], capture_output=True, text=True)
    return [field.strip() for field in done.stdout.split(",")] if done.returncode == 0 else []


GPU = _smi()
pytestmark = pytest.mark.skipif(not GPU, reason="no GPU")


def test_the_device_is_the_one_that_nvidia_smi_names() -> None:
    name, uuid, capability, driver = GPU
    device = Cudart().describe()
    assert device.name == name
    assert device.uuid == uuid.removeprefix("GPU-").replace("-", "")
    assert device.capability == "sm" + capability.replace(".", "")
    assert driver in device.release
    assert int(device.runtime.split(".")[0]) <= int(device.driver.split(".")[0])


def test_copies_and_a_recorded_graph_do_what_they_say() -> None:
    """Host → GPU → GPU → host; then the same recorded once and launched on other values."""
    cuda = Cudart()
    stream, size = cuda.stream(), 4 * 1000
    hosts = [cuda.malloc_host(size) for _ in range(2)]
    devices = [cuda.malloc(size) for _ in range(2)]
    source, target = (np.ctypeslib.as_array(ctypes.cast(each, ctypes.POINTER(ctypes.c_float)), (1000,)) for each in hosts)

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
    for each in devices:
        cuda.free(each)
    for each in hosts:
        cuda.free_host(each)
    cuda.destroy_stream(stream)


def test_memory_that_runs_out_is_one_line_and_ends_nothing() -> None:
    cuda = Cudart()
    with pytest.raises(DeviceError, match=r"out of GPU memory \(\d+\.\d\d of \d+\.\d\d GB are free\); use a smaller batch_size"):
        cuda.malloc(1 << 50)
    cuda.free(cuda.malloc(1024))


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(BackendError, match="GPU 99: there are"):
        Cudart(device=99)
