"""Builds a TensorRT-RTX plan of every graph for TensorRT, to show that it accepts the graph.

TensorRT-RTX builds without a GPU. The plans are discarded, because each device builds its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lame_runtime.backends.tensorrt.module import load_tensorrt
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.errors import BackendError, ExportError
from lame_runtime.machine.graph_memory import weight_bytes
from lame_runtime.parity import gates
from lame_runtime.parity.gates import judge

from lame_export.engine.build import BUILDABLE
from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import Profiles, Widths, derive_profiles
from lame_export.model_facts import model_widths
from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState

TARGET = "sm86"
"""Compute capability to build for; any other that TensorRT-RTX supports would do as well."""
UNLIMITED = 1 << 50
"""Bytes of GPU memory for the profiles; these plans never run, so no GPU limits them."""


class BuildEngines(Pass):
    """Adds one row per graph for TensorRT, or one row if TensorRT-RTX is not installed.

    The row of a graph for which there is not enough memory says so, and has no gate.
    """

    name = "engine"
    reads = ("model", "reference", "memory")
    writes = ("rows",)

    def input_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of every graph for TensorRT."""
        return graph_files(state, set(BUILDABLE) & set(state.graphs))

    def run(self, state: ExportState) -> None:
        """Builds every graph; raises `ExportError` if a file cannot be built."""
        try:
            trt = load_tensorrt("tensorrt_rtx")
        except BackendError:
            # TensorRT-RTX is optional on the exporting machine; the certificate records its absence
            row = judge("TensorRT-RTX builds", "", "not installed", 0, None, {"built": 0})
            state.add([row])
            return
        widths = {part: Widths(**values) for part, values in model_widths(state.model).items()}
        contract = state.reference.preparer.contract
        profiles = derive_profiles(contract, widths, "latency", UNLIMITED)
        for graph in state.graphs:
            if graph not in BUILDABLE:
                continue
            if all(
                state.memory.can_build(weight_bytes(path)) for path in graph_files(state, [graph])
            ):
                _build(state, graph, profiles, trt)
            else:
                # the device builds its own plans; the certificate records that none was built here
                reason = "too large for this memory"
                state.add([judge("TensorRT-RTX builds", graph, reason, 0, None, {"built": 0})])


def _build(state: ExportState, graph: str, profiles: Profiles, trt: Any) -> None:
    """Builds both parts of one graph and adds its row."""
    sizes, reason = [], ""
    try:
        for part in PARTS:
            options = Options(target=TARGET)
            # a plan of a large model takes gigabytes, so only its size is kept
            plan, _ = build_plan(state.path(part, graph), profiles[part], options, trt)
            sizes.append(len(plan))
    except ExportError as error:
        # the row shows TensorRT's message beside the number of files that it built
        reason = str(error)
    figure = {"built": len(sizes), "bytes": sum(sizes)}
    comparison = f"TensorRT-RTX {trt.__version__} builds for {TARGET}"
    state.add([judge(comparison, graph, "files", len(PARTS), gates.BUILT, figure, reason)])
