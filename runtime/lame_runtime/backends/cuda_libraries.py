"""Finds the libraries of CUDA for ONNX Runtime, and the one that is missing."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Iterator
from typing import Any

from lame_runtime.errors import first_line

# Values of ONNX Runtime's logging levels; its Python module has no names for them.
_LOG_WARNING, _LOG_FATAL = 2, 4


@contextlib.contextmanager
def cuda_libraries(ort: Any) -> Iterator[None]:
    """Loads CUDA's libraries from NVIDIA's wheels if they are installed, and silences ONNX Runtime.

    `preload_dlls` prints every library that it misses, and the session's fallback to the CPU is
    logged as an error. `backends.onnxruntime` reports both in one message of its own.
    """
    ort.set_default_logger_severity(_LOG_FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        yield
    finally:
        # The level cannot be read, only set, so this puts back ONNX Runtime's default.
        ort.set_default_logger_severity(_LOG_WARNING)


def missing_library(ort: Any) -> str:
    """Returns, in brackets, the first library of CUDA or its driver that cannot be loaded."""
    major = cuda_major(ort)
    # In the order in which they depend on each other: the first that is missing is the cause.
    for name in (
        "libcuda.so.1",
        f"libcudart.so.{major}",
        f"libcublasLt.so.{major}",
        "libcudnn.so.9",
    ):
        try:
            ctypes.CDLL(name)
        except OSError as error:
            return f" ({first_line(error)})"
    return ""


def cuda_major(ort: Any) -> str:
    """Returns the major version of CUDA that a build of ONNX Runtime was made for."""
    return str(ort.cuda_version).split(".")[0]
