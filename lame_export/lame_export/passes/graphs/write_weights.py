"""Writes the weight-only quantized graphs, for CPUs with little memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS

from lame_export.passes.base import Pass, graph_files
from lame_export.quantization.weight_only import quantize_weights
from lame_export.rewrites.fuse import fuse
from lame_export.state import ExportState
from lame_export.streaming.pieces import copy_of

BITS = {"w8-cpu": 8, "w4-cpu": 4}
"""Bits per weight, by graph."""


class WriteWeights(Pass):
    """Fuses copies of the traced graphs and stores their weights in 8 or 4 bits."""

    name = "weight-only"
    reads = ("traced",)

    def applies(self, state: ExportState) -> bool:
        """Returns whether the bundle gets a weight-only quantized graph."""
        return bool(set(BITS) & set(state.graphs))

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the weight-only quantized files."""
        return graph_files(state, set(BITS) & set(state.graphs))

    def run(self, state: ExportState) -> None:
        """Fuses, quantizes and saves both parts of each graph."""
        for graph, bits in BITS.items():
            if graph not in state.graphs:
                continue
            for part in PARTS:
                # both start from the traced graph: quantizing 8 bits to 4 would round twice
                model = copy_of(state.traced[part])
                # fuse first, because fusion reads FP32 weights that quantization replaces
                fuse(model)
                quantize_weights(model, bits)
                state.save(model, part, graph)
