"""Selects the backend and graph that a bundle runs with on this machine, and says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lame_runtime.backends import onnxruntime as onnx_backend
from lame_runtime.backends.tensorrt.cudart import Cudart
from lame_runtime.backends.tensorrt.module import load_tensorrt
from lame_runtime.backends.tensorrt.plans import Build, DeviceKey, builds, find_build
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.errors import BackendError, UsageError
from lame_runtime.options import LoadOptions

PLAN_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module of each backend that runs plans."""
DEFAULT_PLAN_GRAPH = "fp16"


@dataclass(frozen=True)
class Selection:
    """A backend and graph, and the reason why they were selected."""

    graph: str
    reason: str
    """One line for `Encoder.reason` and `lame-runtime info`."""
    provider: str = ""
    """ONNX Runtime's name of the execution provider; empty if plans run."""
    build: Build | None = None
    """The TensorRT build whose plans run; None on ONNX Runtime."""
    module: Any = None
    """TensorRT's Python module, if plans run."""
    optional: bool = False
    """Whether ONNX Runtime may take over if the plans cannot be used: nobody asked for them."""


def select(bundle: Bundle, options: LoadOptions) -> Selection:
    """Selects what `options.backend` names, or the best there is for "auto".

    Raises:
        BackendError: the backend is not available here; the message says why.
        UsageError: the options do not go together, or plans of a graph were asked for that the
            bundle does not have.
    """
    if options.backend in PLAN_MODULES:
        return _select_plans(bundle, options, f"{options.backend}, as asked")
    # both mean something on a CPU alone, so whoever gives them wants a CPU
    for_cpu = options.threads is not None or options.map_weights
    graph = options.graph or DEFAULT_PLAN_GRAPH
    if options.backend != "auto" or for_cpu or not _has_builds(bundle, graph, options):
        return select_onnxruntime(bundle, options)
    try:
        reason = "TensorRT, because plans for it were built here"
        return _select_plans(bundle, options, reason, optional=True)
    except BackendError as error:
        selection = select_onnxruntime(bundle, options)
        reason = f"{selection.reason}; TensorRT plans are there but not used: {error}"
        return Selection(selection.graph, reason, selection.provider)


def select_onnxruntime(bundle: Bundle, options: LoadOptions) -> Selection:
    """Selects ONNX Runtime's provider and the graph that it runs.

    Raises:
        BackendError: ONNX Runtime, or the provider that was asked for, is not available.
        UsageError: the options do not go together.
    """
    # after a fallback the backend is "auto", which `choose_provider` understands
    provider, why = onnx_backend.choose_provider(options.backend)
    on_gpu = provider == "CUDAExecutionProvider"
    if options.map_weights and on_gpu:
        raise UsageError(
            "`map_weights` is for CPUs, because a GPU holds the weights itself; "
            'leave it out, or pass `backend="onnxruntime"`'
        )
    if options.graph is None:
        # the same weights, with operators that are faster on a CPU and need less memory
        on_cpu = "fp32-cpu" if "fp32-cpu" in bundle.graphs else "fp32"
        graph = "fp16" if on_gpu else on_cpu
        reason = f"{why}; graph {graph} by default there"
    else:
        graph = options.graph
        reason = f"{why}; graph {graph} as asked"
    if options.map_weights:
        reason += "; weights mapped, as asked"
    return Selection(graph, reason, provider)


def graphs_for(bundle: Bundle, options: LoadOptions) -> list[str]:
    """Lists the graphs that `options.backend` can run; for TensorRT, those with plans."""
    if options.backend not in PLAN_MODULES:
        return bundle.graphs
    with_plans = [graph for graph in bundle.graphs if _has_builds(bundle, graph, options)]
    return with_plans or [DEFAULT_PLAN_GRAPH]


def _select_plans(
    bundle: Bundle, options: LoadOptions, why: str, *, optional: bool = False
) -> Selection:
    if options.map_weights or options.threads is not None:
        raise UsageError(
            "`threads` and `map_weights` are for ONNX Runtime on a CPU; "
            'leave them out, or pass `backend="onnxruntime"`'
        )
    graph = options.graph or DEFAULT_PLAN_GRAPH
    bundle.graph_files(graph)
    if options.backend in PLAN_MODULES:
        name: str | None = PLAN_MODULES[options.backend]
    else:
        # with both installed, TensorRT proper would be loaded for plans that it cannot read
        modules = {build.facts.module for build in builds(bundle, graph, options.engines)}
        name = "tensorrt_rtx" if modules == {"tensorrt_rtx"} else None
    module = load_tensorrt(name)
    gpu = Cudart(device=options.gpu).describe()
    device = DeviceKey(module.__name__, module.__version__, gpu.name, gpu.capability)
    build = find_build(bundle, graph, device, trust=options.trust_plans, engines=options.engines)
    origin = "as asked" if options.graph else "by default there"
    reason = f"{why}; plans {build.folder.name}; graph {graph} {origin}"
    if build.facts.fallback:
        reason += f"; {build.facts.fallback}"
    return Selection(graph, reason, build=build, module=module, optional=optional)


def _has_builds(bundle: Bundle, graph: str, options: LoadOptions) -> bool:
    return any(True for _ in builds(bundle, graph, options.engines))
