"""Writes the FP32 graphs with fused operators, for ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lame_runtime.bundle.bundle import PARTS

from lame_export.passes.base import Pass, graph_files
from lame_export.rewrites.fuse import fuse
from lame_export.state import ExportState
from lame_export.streaming.pieces import copy_of


class FuseFp32(Pass):
    """Fuses copies of the FP32 graphs; a bundle with both forms stores the weights only once.

    Experts are the exception.
    """

    name = "fp32-cpu"
    reads = ("traced",)

    def applies(self, state: ExportState) -> bool:
        """Returns whether the bundle gets an FP32 graph for CPUs."""
        return "fp32-cpu" in state.graphs

    def output_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of the fused FP32 files."""
        return graph_files(state, ["fp32-cpu"])

    def run(self, state: ExportState) -> None:
        """Fuses both parts and saves them."""
        # deferred, because this module is imported for `--help` as well
        import onnx_ir as ir

        for part in PARTS:
            if "fp32" not in state.graphs:
                model = copy_of(state.traced[part])
                fuse(model)
                state.save(model, part, "fp32-cpu")
                continue
            # loaded from disk, the model's weights are references into the data file, and the fused
            # copy keeps them
            model = ir.load(state.path(part, "fp32"))
            if fuse(model)["MoE"]:
                # experts are stored in another order there
                state.save(model, part, "fp32-cpu")
            else:
                ir.save(model, state.path(part, "fp32-cpu"))
