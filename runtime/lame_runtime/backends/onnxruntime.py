"""ONNX Runtime: the requested execution provider is really active, or there is an error.

Needs ONNX Runtime 1.23 or later; everything here was tested with 1.31.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lame_runtime.backends.base import Backend
from lame_runtime.backends.cuda_libraries import cuda_libraries, cuda_major, missing_library
from lame_runtime.backends.forks import keep_in_forks
from lame_runtime.backends.graph_interface import encoder_dim, vision_width
from lame_runtime.backends.telemetry import stop_telemetry
from lame_runtime.bundle.graph_source import GraphSource, Hashes, open_graph
from lame_runtime.contract.batch import Batch, Floats, PictureGroup
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.vectors import require_finite
from lame_runtime.errors import BackendError, StorageError, first_line, shown

_CUDA = "CUDAExecutionProvider"
_PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "onnxruntime-gpu": _CUDA}

# The CUDA provider rounds the factors of FP32 products to TF32's 10 bits by default, on GPUs from
# Ampere on. `fp32` graphs would then miss the gates, which are those of FP32.
_SETTINGS = {_CUDA: {"use_tf32": "0"}}

# Name of ONNX Runtime's setting for the folder of the data files of a graph in memory.
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"

# The value of a logging level; ONNX Runtime's Python module has no names for them.
_LOG_ERROR = 3


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
        listed: the files that may be opened, with their hashes; see `graph_source.Hashes`.
        contract: what the graphs' inputs and outputs have to fit; None for graphs of our own.

    Raises:
        BackendError: a graph cannot be loaded, or the session fell back to another provider.
        BundleError: a file is missing, differs from its hash, changes while it is loaded, or is no
            graph of this contract.
    """

    def __init__(
        self,
        vision_path: Path,
        encoder_path: Path,
        provider: str,
        threads: int | None = None,
        *,
        map_weights: bool = False,
        listed: Hashes | None = None,
        contract: Contract | None = None,
    ) -> None:
        # One graph after the other, so that the weights of one of them alone are held twice.
        self._vision: Any
        with open_graph(vision_path, listed, mapped=map_weights) as source:
            self.width = vision_width(vision_path, source.facts, contract)
            self._vision = source_session(source, provider, threads, lean=map_weights)
        self._encoder: Any
        with open_graph(encoder_path, listed, mapped=map_weights) as source:
            self.dim = encoder_dim(encoder_path, source.facts, self.width, contract)
            self._encoder = source_session(source, provider, threads, lean=map_weights)
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
        """Drops the sessions, and with them their threads, memory and mapped files."""
        self._vision = self._encoder = None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime is not installed ({error}); "
            "pip install 'lame-runtime[onnxruntime]', or [onnxruntime-gpu]"
        ) from None
    stop_telemetry(onnxruntime)
    return onnxruntime


def open_session(
    path: Path,
    provider: str = "CPUExecutionProvider",
    threads: int | None = None,
    *,
    optimize: bool = True,
    lean: bool = False,
) -> Any:
    """Returns an ONNX Runtime session on one execution provider, for a graph of our own.

    ONNX Runtime opens the files itself, so a graph of unknown origin needs `source_session`.

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
    options = _session_options(ort, threads, optimize=optimize, lean=lean)
    return _create_session(ort, path, str(path), options, provider)


def source_session(
    source: GraphSource, provider: str, threads: int | None = None, *, lean: bool = False
) -> Any:
    """Returns a session on a graph whose bytes have been checked; ONNX Runtime opens no file.

    Args:
        source: the graph.
        provider: ONNX Runtime's name of the execution provider.
        threads: CPU threads; None for all cores.
        lean: use the weights where they are, do not rewrite the graph, and keep no memory between
            runs.

    Raises:
        BackendError: the graph cannot be loaded, or ONNX Runtime fell back to another provider.
        BundleError: mapped weights changed while they were loaded.
    """
    ort = _onnxruntime()
    options = _session_options(ort, threads, optimize=not lean, lean=lean)
    values = {
        weight.name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, weight.data_type)
        for weight, array in source.arrays()
    }
    with _empty_data(source.facts.data_name) if lean else contextlib.nullcontext() as folder:
        if folder is not None:
            options.add_session_config_entry(_DATA_FOLDER, os.fsencode(folder))
            for name, value in values.items():
                options.add_initializer(name, value)
        elif values:
            # These are copied, so that ONNX Runtime may rewrite and repack them.
            options.add_external_initializers(list(values), list(values.values()))
        session = _create_session(ort, source.path, source.model, options, provider)
    source.require_unchanged()
    # A session does not own the values that it uses where they are.
    session.lame_weights = (source, values) if lean else ()
    return session


@contextlib.contextmanager
def _empty_data(name: str) -> Iterator[str]:
    """Yields a temporary folder that holds an empty data file of a graph.

    ONNX Runtime looks whether the file exists, even where all weights are given. An empty one
    satisfies it, and nothing can be read from it by name.
    """
    try:
        folder = tempfile.TemporaryDirectory()
        (Path(folder.name) / name).touch()
    except OSError as error:
        raise StorageError(
            f"no temporary folder for mapped weights ({error.strerror}); "
            "set TMPDIR to a folder that can be written, or leave `map_weights` out"
        ) from None
    with folder as path:
        yield path


def _create_session(ort: Any, path: Path, model: str | bytes, options: Any, provider: str) -> Any:
    try:
        with cuda_libraries(ort) if provider == _CUDA else contextlib.nullcontext():
            session = ort.InferenceSession(
                model,
                options,
                providers=[(provider, _SETTINGS.get(provider, {}))],
                # By default a failure prints lines to stdout, and the CPU is taken in silence.
                enable_fallback=0,
            )
    except Exception as error:  # ONNX Runtime raises a dozen classes here, with no common base
        raise BackendError(
            f"{shown(path)}: ONNX Runtime {ort.__version__} cannot load the graph "
            f"({first_line(error)})"
        ) from None
    # A provider whose libraries cannot be loaded is no error to ONNX Runtime: it logs a line and
    # takes the CPU. `get_providers` says what it took.
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot use a GPU here{missing_library(ort)}; "
            f"it needs an NVIDIA driver and CUDA {cuda_major(ort)}: "
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
