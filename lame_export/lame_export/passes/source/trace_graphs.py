"""Traces the vision tower and the encoder to FP32 graphs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS

from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState


class TraceGraphs(Pass):
    """Traces the model and keeps the graphs in memory, without their weights, for later passes."""

    name = "trace"
    reads = ("model", "reference")
    writes = ("traced",)

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the FP32 files, if the bundle gets them."""
        return graph_files(state, {"fp32"} & set(state.graphs))

    def run(self, state: ExportState) -> None:
        """Traces the model, and saves the graphs if the bundle gets them."""
        # deferred: PyTorch's exporter takes seconds to import
        from lame_export.forward.trace import trace

        # always traced: all other graphs are derived from these, even if FP32 does not ship
        state.traced = trace(state.model, state.reference.preparer.contract)
        if "fp32" in state.graphs:
            # weights are copied from the checkpoint one by one, so memory use stays low
            for part in PARTS:
                state.save(state.traced[part], part, "fp32")
