"""Converts the traced graphs to half precision."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.certificate import Island

from lame_export.passes.base import Pass, graph_files
from lame_export.rewrites import half
from lame_export.state import ExportState
from lame_export.streaming.pieces import copy_of


class TypeHalf(Pass):
    """Writes the FP16 graphs; `islands` lists the tensors that must stay in FP32."""

    name = "fp16"
    reads = ("traced", "quantizer")
    writes = ("islands",)

    def applies(self, state: ExportState) -> bool:
        """Returns whether the bundle gets an FP16 graph."""
        return "fp16" in state.graphs

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the FP16 files."""
        return graph_files(state, ["fp16"])

    def run(self, state: ExportState) -> None:
        """Converts copies of the traced graphs and saves them."""
        for part in PARTS:
            # a copy, because the INT8 and weight-only passes still read the FP32 graphs
            model = copy_of(state.traced[part])
            islands = half.type_fp16(model, state.quantizer.scans[part].amax)
            note_islands(state, "fp16", part, islands)
            state.save(model, part, "fp16")


def note_islands(state: ExportState, graph: str, part: str, islands: list[half.Island]) -> None:
    """Records the FP32 tensors of one file for the certificate."""
    state.islands += [
        Island(graph, part, island.node, island.value, float(island.amax)) for island in islands
    ]
