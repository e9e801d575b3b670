"""Compares every graph with PyTorch on the golden vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.parity.compare import graph_rows

from lame_export.parity.judged import judged_encoder, note_of
from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState


class ProveVectors(Pass):
    """Adds the rows of each graph: cosines, single against batched inputs, finite values."""

    name = "parity"
    reads = ("reference", "memory", "golden")
    writes = ("rows",)

    def input_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of every graph."""
        return graph_files(state, state.graphs)

    def run(self, state: ExportState) -> None:
        """Embeds the golden inputs; raises `ExportError` if a gate is not met."""
        for graph in state.graphs:
            # one graph at a time: two copies of a large model would not fit in memory
            with judged_encoder(state, graph) as encoder:
                state.add(graph_rows(encoder, graph, state.golden, note_of(graph)))
