"""Makes the encoder that a graph is evaluated with on the exporting machine.

ONNX Runtime's CPU provider computes FP16 in FP32, which would make FP16 and INT8 graphs look more
accurate than they are on a GPU. They are evaluated on an emulation that rounds every FP16 tensor.
"""

from __future__ import annotations

import onnx_ir as ir
from lame_runtime.backends.onnxruntime import OrtBackend
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.encoder import Encoder
from lame_runtime.machine.graph_memory import weight_bytes

from lame_export.rewrites.emulate import emulate
from lame_export.state import ExportState
from lame_export.streaming.streamed_backend import StreamedBackend

EMULATED = ("fp16", "int8")
"""Graphs that are evaluated on their emulation."""


def judged_encoder(state: ExportState, graph: str) -> Encoder:
    """Returns an encoder over a graph, or over its emulation if the graph is in `EMULATED`.

    Graphs for GPUs hold the scores of all queries at once, which takes 4 GB for 8,192 tokens and 16
    heads on a CPU; they run over blocks of queries.
    """
    preparer = state.reference.preparer
    if graph.endswith("-cpu"):
        vision, encoder = (state.path(part, graph) for part in PARTS)
        # a loaded graph holds its weights twice while they are repacked
        map_weights = any(2 * weight_bytes(path) > state.memory.spare for path in (vision, encoder))
        loaded = OrtBackend(vision, encoder, "CPUExecutionProvider", map_weights=map_weights)
        return Encoder(preparer, loaded, graph)
    models = {part: ir.load(state.path(part, graph)) for part in PARTS}
    if graph in EMULATED:
        # in place, because nothing else refers to these copies
        for model in models.values():
            emulate(model)
    # an emulation unoptimized, because ONNX Runtime would remove the casts that round
    optimize = graph not in EMULATED
    backend = StreamedBackend(
        models["vision"], models["encoder"], optimize=optimize, resources=state.resources
    )
    return Encoder(preparer, backend, graph)


def note_of(graph: str) -> str:
    """Returns the note that marks a graph's rows as emulated, or an empty string."""
    return "emulated" if graph in EMULATED else ""
