"""ONNX Runtime: the provider that was asked for is really active, or there is an error."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.backends.base import Backend, Batch, Floats, PictureGroup
from lame_runtime.errors import BackendError

_CUDA = "CUDAExecutionProvider"
_PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "onnxruntime-gpu": _CUDA}
_SETTINGS = {_CUDA: {"use_tf32": "0"}}
"""TF32 would round the factors of FP32 products to 10 bits; the gates are those of FP32."""


def choose_provider(backend: str) -> tuple[str, str]:
    """The execution provider for a backend name, and why it was chosen.

    Raises:
        BackendError: ONNX Runtime is missing, or does not offer what was asked for.
    """
    available = _onnxruntime().get_available_providers()
    if backend == "auto":
        if _CUDA in available:
            return _CUDA, "CUDA, because ONNX Runtime offers it"
        return "CPUExecutionProvider", "CPU, because ONNX Runtime offers no CUDA here"
    provider = _PROVIDERS[backend]
    if provider not in available:
        raise BackendError(f"{backend}: this ONNX Runtime offers only {', '.join(available)}; pip install 'lame-runtime[{backend}]'")
    return provider, f"{provider.removesuffix('ExecutionProvider')}, as asked"


class OrtBackend(Backend):
    """Two ONNX Runtime sessions on one provider.

    Args:
        vision_path: the vision graph.
        encoder_path: the encoder graph.
        provider: ONNX Runtime's name of the execution provider.
        threads: CPU threads; None for all cores.
        map_weights: leave the weights mapped from the disk; ONNX Runtime neither packs nor rewrites then.

    Raises:
        BackendError: a graph cannot be loaded, or the session fell back to another provider.
    """

    def __init__(
        self, vision_path: Path, encoder_path: Path, provider: str, threads: int | None = None, *, map_weights: bool = False
    ) -> None:
        self._vision = open_session(vision_path, provider, threads, optimise=not map_weights, lean=map_weights)
        self._encoder = open_session(encoder_path, provider, threads, optimise=not map_weights, lean=map_weights)
        self.width = int(self._vision.get_outputs()[0].shape[-1])
        self.name = f"onnxruntime {_onnxruntime().__version__} {provider.removesuffix('ExecutionProvider')}"

    def vision(self, group: PictureGroup) -> Floats:
        """See `Backend.vision`."""
        return _run(self._vision, group.vision_feeds())

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """See `Backend.encoder`."""
        return _run(self._encoder, batch.encoder_feeds(features_FD))

    def close(self) -> None:
        """Drops the sessions."""
        self._vision = self._encoder = None


def _onnxruntime() -> Any:
    # Linux builds since 2026 keep an identifier in the user's cache and send events home, unless told so before they are loaded
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime is not installed ({error}); pip install 'lame-runtime[onnxruntime]', or [onnxruntime-gpu]"
        ) from None
    return onnxruntime


def open_session(
    path: Path, provider: str = "CPUExecutionProvider", threads: int | None = None, *, optimise: bool = True, lean: bool = False
) -> Any:
    """A session on one provider.

    Args:
        path: the graph.
        provider: ONNX Runtime's name of the execution provider.
        threads: CPU threads; None for all cores.
        optimise: let ONNX Runtime fuse and rewrite.
        lean: weights stay mapped from the file, and nothing is kept for a next run; slower from the second run on.

    Raises:
        BackendError: the graph cannot be loaded, or another provider was taken.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    # the vision tower's threads would go on waiting busily, on the cores on which the encoder runs next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if lean:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        with _cuda_ready(ort) if provider == _CUDA else contextlib.nullcontext():
            session = ort.InferenceSession(str(path), options, providers=[(provider, _SETTINGS.get(provider, {}))])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes here
        raise BackendError(f"{path}: ONNX Runtime {ort.__version__} cannot load the graph ({_first_line(error)})") from None
    active = session.get_providers()
    if active[0] != provider:
        needed = f"CUDA {_cuda_major(ort)}: pip install 'onnxruntime-gpu[cuda,cudnn]', or use backend onnxruntime"
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot use a GPU here{_missing(ort)}; it needs an NVIDIA driver and {needed}")
    return session


@contextlib.contextmanager
def _cuda_ready(ort: Any) -> Iterator[None]:
    """CUDA's libraries loaded from NVIDIA's wheels where they are installed; ONNX Runtime prints nothing of what it misses."""
    ort.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        yield
    finally:
        ort.set_default_logger_severity(2)  # its default; there is no way to ask


def _missing(ort: Any) -> str:
    """The first library of CUDA and its driver that cannot be loaded."""
    major = _cuda_major(ort)
    for name in ("libcuda.so.1", f"libcudart.so.{major}", f"libcublasLt.so.{major}", "libcudnn.so.9"):
        try:
            ctypes.CDLL(name)
        except OSError as error:
            return f" ({_first_line(error)})"
    return ""


def _cuda_major(ort: Any) -> str:
    return str(ort.cuda_version).split(".")[0]


def run_session(session: Any, feeds: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """All outputs of one run by name; raises `BackendError`."""
    if session is None:
        raise BackendError("the encoder was closed; load the bundle again")
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # see open_session
        raise BackendError(f"ONNX Runtime failed to run the graph ({_first_line(error)})") from None


def _run(session: Any, feeds: dict[str, Any]) -> Floats:
    (output,) = run_session(session, feeds).values()
    if not np.isfinite(output).all():
        raise BackendError("the graph returned a value that is not finite; run `lame-runtime verify` on this device")
    return output


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
