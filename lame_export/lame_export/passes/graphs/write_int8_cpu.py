"""Writes the INT8 graphs for ONNX Runtime's CPU provider, with fused attention."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState


class WriteInt8Cpu(Pass):
    """Writes the INT8 graphs with the configuration that was chosen for "int8-cpu"."""

    name = "int8-cpu"
    reads = ("quantizer", "configs")

    def applies(self, state: ExportState) -> bool:
        """Returns whether the bundle gets an INT8 graph for CPUs."""
        return "int8-cpu" in state.graphs

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the INT8 files for CPUs."""
        return graph_files(state, ["int8-cpu"])

    def run(self, state: ExportState) -> None:
        """Quantizes both parts and saves them."""
        models = state.quantizer.int8_cpu(state.configs["int8-cpu"])
        for part, model in models.items():
            state.save(model, part, "int8-cpu")
