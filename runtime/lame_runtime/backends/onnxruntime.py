"""ONNX Runtime: the requested execution provider is really active, or there is an error.

Needs ONNX Runtime 1.23 or later; everything here was tested with 1.31.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lame_runtime.backends.base import Backend
from lame_runtime.backends.forks import keep_in_forks
from lame_runtime.contract.batch import Batch, Floats, PictureGroup
from lame_runtime.contract.vectors import require_finite
from lame_runtime.errors import BackendError, first_line

_CUDA = "CUDAExecutionProvider"
_PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "onnxruntime-gpu": _CUDA}

# The CUDA provider rounds the factors of FP32 products to TF32's 10 bits by default, on GPUs from
# Ampere on. `fp32` graphs would then miss the gates, which are those of FP32.
_SETTINGS = {_CUDA: {"use_tf32": "0"}}

# Values of ONNX Runtime's logging levels; its Python module has no names for them.
_LOG_WARNING, _LOG_ERROR, _LOG_FATAL = 2, 3, 4


def choose_provider(backend: str) -> tuple[str, str]:
    """Returns the execution provider for a backend name, and the reason for it in words.

    Args:
        backend: "auto", "onnxruntime" or "onnxruntime-gpu".

    Raises:
        BackendError: ONNX Runtime is missing, or its build lacks the requested provider.
    """
    available = _onnxruntime().get_available_providers()
    if backend == "auto":
        if _CUDA in available:
            return _CUDA, "CUDA, because ONNX Runtime offers it"
        return "CPUExecutionProvider", "CPU, because ONNX Runtime offers no CUDA here"
    provider = _PROVIDERS[backend]
    if provider not in available:
        raise BackendError(
            f"{backend}: this ONNX Runtime offers only {', '.join(available)}; "
            f"pip install 'lame-runtime[{backend}]'"
        )
    return provider, f"{provider.removesuffix('ExecutionProvider')}, as asked"


class OrtBackend(Backend):
    """Runs the two graphs in ONNX Runtime sessions on one execution provider.

    Args:
        vision_path: the vision graph.
        encoder_path: the encoder graph.
        provider: ONNX Runtime's name of the execution provider.
        threads: CPU threads; None for all cores.
        map_weights: leave the weights mapped from the disk instead of unpacking them. ONNX Runtime
            then neither repacks weights nor rewrites the graph; a run takes about twice as long.

    Raises:
        BackendError: a graph cannot be loaded, or the session fell back to another provider.
    """

    def __init__(
        self,
        vision_path: Path,
        encoder_path: Path,
        provider: str,
        threads: int | None = None,
        *,
        map_weights: bool = False,
    ) -> None:
        optimize, lean = not map_weights, map_weights
        self._vision = open_session(vision_path, provider, threads, optimize=optimize, lean=lean)
        self._encoder = open_session(encoder_path, provider, threads, optimize=optimize, lean=lean)
        self.width = int(self._vision.get_outputs()[0].shape[-1])
        self.name = (
            f"onnxruntime {_onnxruntime().__version__} {provider.removesuffix('ExecutionProvider')}"
        )

    def vision(self, group: PictureGroup) -> Floats:
        """Returns the features of the group's pictures; see `Backend.vision`."""
        return _only_output(self._vision, group.vision_feeds())

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Returns the embeddings of a batch; see `Backend.encoder`."""
        return _only_output(self._encoder, batch.encoder_feeds(features_FD))

    def close(self) -> None:
        """Drops the sessions, and with them their threads and memory."""
        self._vision = self._encoder = None


def _onnxruntime() -> Any:
    # Some builds since 2026 keep an identifier in the user's cache and send usage events. They read
    # this variable once, while they are loaded, so it has to be set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime is not installed ({error}); "
            "pip install 'lame-runtime[onnxruntime]', or [onnxruntime-gpu]"
        ) from None
    return onnxruntime


def open_session(
    path: Path,
    provider: str = "CPUExecutionProvider",
    threads: int | None = None,
    *,
    optimize: bool = True,
    lean: bool = False,
) -> Any:
    """Returns an ONNX Runtime session on one execution provider.

    Args:
        path: the graph.
        provider: ONNX Runtime's name of the execution provider.
        threads: CPU threads; None for all cores.
        optimize: let ONNX Runtime fuse and rewrite the graph.
        lean: leave the weights mapped from the file and keep no memory between runs; the second and
            later runs are slower.

    Raises:
        BackendError: the graph cannot be loaded, or ONNX Runtime fell back to another provider.
    """
    ort = _onnxruntime()
    try:
        with _cuda_libraries(ort) if provider == _CUDA else contextlib.nullcontext():
            session = ort.InferenceSession(
                str(path),
                _session_options(ort, threads, optimize=optimize, lean=lean),
                providers=[(provider, _SETTINGS.get(provider, {}))],
            )
    except Exception as error:  # ONNX Runtime raises a dozen classes here, with no common base
        raise BackendError(
            f"{path}: ONNX Runtime {ort.__version__} cannot load the graph ({first_line(error)})"
        ) from None
    # A provider whose libraries cannot be loaded is no error to ONNX Runtime: it logs a line and
    # takes the CPU. `get_providers` says what it took.
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot use a GPU here{_missing_library(ort)}; "
            f"it needs an NVIDIA driver and CUDA {_cuda_major(ort)}: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or use backend onnxruntime"
        )
    keep_in_forks(session)
    return session


def _session_options(ort: Any, threads: int | None, *, optimize: bool, lean: bool) -> Any:
    options = ort.SessionOptions()
    # By default a session's threads wait in a busy loop after a run. Those of the vision tower
    # would hold the cores that the encoder needs next (0.89 instead of 1.06 ms per picture, see
    # BENCHMARKS.md).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if lean:
        # The arena keeps the memory of the largest run, and prepacking copies the weights into
        # another layout. Each costs the memory that mapping the file is meant to save.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Warnings of a session go to stderr, where users of the command line would take them for ours.
    options.log_severity_level = _LOG_ERROR
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


@contextlib.contextmanager
def _cuda_libraries(ort: Any) -> Iterator[None]:
    """Loads CUDA's libraries from NVIDIA's wheels if they are installed, and silences ONNX Runtime.

    `preload_dlls` prints every library that it misses, and the session's fallback to the CPU is
    logged as an error. `open_session` reports both in one message of its own.
    """
    ort.set_default_logger_severity(_LOG_FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        yield
    finally:
        # The level cannot be read, only set, so this puts back ONNX Runtime's default.
        ort.set_default_logger_severity(_LOG_WARNING)


def _missing_library(ort: Any) -> str:
    """Returns, in brackets, the first library of CUDA or its driver that cannot be loaded."""
    major = _cuda_major(ort)
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


def _cuda_major(ort: Any) -> str:
    return str(ort.cuda_version).split(".")[0]


def run_session(session: Any, feeds: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Runs a session once and returns all its outputs by name.

    Raises:
        BackendError: the session was closed (None), or ONNX Runtime failed to run the graph.
    """
    if session is None:
        raise BackendError("the encoder was closed; load the bundle again")
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # see open_session
        raise BackendError(f"ONNX Runtime failed to run the graph ({first_line(error)})") from None


def _only_output(session: Any, feeds: dict[str, Any]) -> Floats:
    (output,) = run_session(session, feeds).values()
    return require_finite(output)
