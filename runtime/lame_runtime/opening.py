"""Which backend and graph a bundle is run with here, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lame_runtime.backends.base import Backend
from lame_runtime.bundle import Bundle
from lame_runtime.errors import BackendError, InputError, LameError
from lame_runtime.plans import Build, Here, builds, find_build

BackendName = Literal["auto", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx"]
BACKENDS: tuple[BackendName, ...] = ("auto", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
PLAN_BACKENDS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backends that run plans, and the module of each."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for; see `Encoder.load`."""

    backend: BackendName = "auto"
    graph: str | None = None
    threads: int | None = None
    check_hashes: bool = True
    map_weights: bool = False
    trust_plans: bool = False
    gpu: int = 0
    workers: int = 1
    cuda_graphs: bool = False
    engines: Path | None = None


@dataclass(frozen=True)
class Opened:
    """What runs."""

    backend: Backend
    graph: str
    reason: str
    build: Build | None = None
    """Of a TensorRT backend."""


def open_backend(bundle: Bundle, wanted: Wanted) -> Opened:
    """The backend that was asked for, or the best there is; raises `BackendError`, `BundleError`, `InputError`."""
    if wanted.backend not in BACKENDS:
        raise BackendError(f"unknown backend {wanted.backend!r}: use {', '.join(BACKENDS)}")
    if wanted.backend in PLAN_BACKENDS:
        return _tensorrt(bundle, wanted, f"{wanted.backend}, as asked")
    for_cpu = wanted.threads is not None or wanted.map_weights
    if wanted.backend == "auto" and not for_cpu and any(True for _ in builds(bundle, wanted.graph or "fp16", wanted.engines)):
        try:
            return _tensorrt(bundle, wanted, "TensorRT, because plans for it were built here")
        except LameError as error:
            return without_plans(bundle, wanted, str(error))
    return _onnxruntime(bundle, wanted)


def without_plans(bundle: Bundle, wanted: Wanted, why: str) -> Opened:
    """What runs where plans cannot be used, or were found wrong, and nobody had asked for them."""
    opened = _onnxruntime(bundle, wanted)
    return Opened(opened.backend, opened.graph, f"{opened.reason}; TensorRT plans are there but not used: {why}")


def graphs_for(bundle: Bundle, backend: BackendName, engines: Path | None = None) -> list[str]:
    """The graphs a backend can run: of TensorRT, those that plans were built of."""
    if backend not in PLAN_BACKENDS:
        return bundle.graphs
    return [graph for graph in bundle.graphs if any(True for _ in builds(bundle, graph, engines))] or ["fp16"]


def _tensorrt(bundle: Bundle, wanted: Wanted, why: str) -> Opened:
    from lame_runtime.backends._cudart import Cudart
    from lame_runtime.backends._tensorrt import load_tensorrt

    if wanted.map_weights or wanted.threads is not None:
        raise InputError("threads and map_weights are for ONNX Runtime on a CPU; leave them out, or ask for backend onnxruntime")
    graph = wanted.graph or "fp16"
    bundle.graph_files(graph)
    names = {build.facts["module"] for build in builds(bundle, graph, wanted.engines)}
    asked = PLAN_BACKENDS.get(wanted.backend) or ("tensorrt_rtx" if names == {"tensorrt_rtx"} else None)
    module = load_tensorrt(asked)
    gpu = Cudart(device=wanted.gpu).describe()
    here = Here(module.__name__, module.__version__, gpu.name, gpu.capability)
    build = find_build(bundle, graph, here, trust=wanted.trust_plans, engines=wanted.engines)
    backend = open_build(bundle, build, module, wanted)
    told = build.fallback and f"; {build.fallback}"
    return Opened(backend, graph, f"{why}; plans {build.folder.name}; graph {graph} {_asked(wanted)}{told}", build)


def open_build(bundle: Bundle, build: Build, module: Any, wanted: Wanted) -> Backend:
    """The backend of two plans, whose seal was looked at; its name says of a fallback what it is. Raises `BackendError`."""
    from lame_runtime.backends.trt import TrtBackend

    weights: tuple[Path, Path] | None = None
    if "weight-stripped" in build.facts["flags"]:
        weights = bundle.graph_paths(build.facts["built_graph"], check_hashes=wanted.check_hashes)
    backend = TrtBackend(
        build.plan("vision"),
        build.plan("encoder"),
        weights=weights,
        hashes=(build.facts["files"]["vision.plan"], build.facts["files"]["encoder.plan"]),
        workers=wanted.workers,
        cuda_graphs=wanted.cuda_graphs,
        host_code="version-compatible" in build.facts["flags"],
        device=wanted.gpu,
        module=module,
    )
    if build.fallback:
        backend.name += f" ({build.fallback})"
    return backend


def _onnxruntime(bundle: Bundle, wanted: Wanted) -> Opened:
    from lame_runtime.backends.ort import OrtBackend, choose_provider  # 0.3 s that importing the package need not pay

    provider, why = choose_provider(wanted.backend)
    if wanted.map_weights and provider != "CPUExecutionProvider":
        raise InputError("map_weights is for CPUs, a GPU holds the weights itself; leave it out or ask for backend onnxruntime")
    graph = wanted.graph if wanted.graph is not None else ("fp16" if provider == "CUDAExecutionProvider" else "fp32")
    vision, encoder = bundle.graph_paths(graph, check_hashes=wanted.check_hashes)
    backend = OrtBackend(vision, encoder, provider, wanted.threads, map_weights=wanted.map_weights)
    mapped = "; weights mapped, as asked" if wanted.map_weights else ""
    return Opened(backend, graph, f"{why}; graph {graph} {_asked(wanted)}{mapped}")


def _asked(wanted: Wanted) -> str:
    return "as asked" if wanted.graph else "by default there"
