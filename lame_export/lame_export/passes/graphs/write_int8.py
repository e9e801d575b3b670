"""Writes the INT8 graphs for TensorRT: Q/DQ around the linear layers of FP16 graphs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS

from lame_export.passes.base import Pass, graph_files
from lame_export.passes.graphs.type_half import note_islands
from lame_export.state import ExportState


class WriteInt8(Pass):
    """Writes the INT8 graphs with the configuration that was chosen for "int8"."""

    name = "int8"
    reads = ("quantizer", "configs")
    writes = ("islands",)

    def applies(self, state: ExportState) -> bool:
        """Returns whether the bundle gets an INT8 graph for TensorRT."""
        return "int8" in state.graphs

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the INT8 files."""
        return graph_files(state, ["int8"])

    def run(self, state: ExportState) -> None:
        """Quantizes both parts and saves them."""
        models, islands = state.quantizer.int8(state.configs["int8"])
        for part in PARTS:
            # everything but the quantized layers runs in FP16, so some tensors need FP32 here, too
            note_islands(state, "int8", part, islands[part])
            state.save(models[part], part, "int8")
