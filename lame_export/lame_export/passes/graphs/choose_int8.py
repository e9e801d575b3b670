"""Chooses how each INT8 graph is quantized, by measuring configurations on held-out inputs."""

from __future__ import annotations

from functools import partial

from lame_export.passes.base import Pass
from lame_export.quantization.search import choose
from lame_export.state import ExportState

INT8_GRAPHS = ("int8", "int8-cpu")


class ChooseInt8(Pass):
    """Searches the configuration of each INT8 graph; see `lame_export.quantization.search`."""

    name = "choose"
    reads = ("golden", "quantizer")
    writes = ("configs", "tried")

    def applies(self, state: ExportState) -> bool:
        """Returns whether the bundle gets an INT8 graph."""
        return bool(set(INT8_GRAPHS) & set(state.graphs))

    def run(self, state: ExportState) -> None:
        """Sets `configs` and `tried`."""
        graphs = [graph for graph in INT8_GRAPHS if graph in state.graphs]
        quantizer = state.quantizer
        # the golden inputs confirm the result: a configuration that fails their gates is rejected
        prove = partial(quantizer.prove, golden=state.golden)
        state.configs, state.tried = choose(
            graphs, quantizer.measure, prove, state.options.strengths
        )
