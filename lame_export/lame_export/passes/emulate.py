"""Emulation: an FP32 copy of an FP16 or INT8 graph that rounds to half wherever the original holds a half.

ONNX Runtime's CPU provider computes FP16 nodes in FP32 and drops the rounding between them, so running the
FP16 file there proves nothing. Here every half value becomes Cast(FP16) → Cast(FP32) behind an FP32 node; ONNX
Runtime keeps those, overflow to infinity included. What is left to the device is the order of accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lame_export.passes.fp16 import insert_cast

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT


def emulate(model: ir.Model, exact: Sequence[str] = ()) -> int:
    """Rewrites `model` in place; returns how many half values it rounds. Q/DQ nodes stay, on FP32 values.

    Args:
        model: an FP16 or INT8 graph.
        exact: paths of modules whose own values are not rounded, as if they were FP32 islands.
    """
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype == HALF:
            value.const_value = _widened(value)
            value.dtype = FULL
    rounded = 0
    for node in list(graph):
        for output in node.outputs:
            if output.dtype != HALF:
                continue
            output.dtype = FULL
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", int(FULL))
            if (node.name or "").split("/")[0] in exact:
                continue
            rounded += 1
            uses = list(output.uses())
            narrow = insert_cast(graph, output, HALF, node, f"{output.name}.round16")
            wide = insert_cast(graph, narrow, FULL, narrow.producer(), f"{output.name}.round32")  # type: ignore[arg-type]
            for user, index in uses:
                user.replace_input_with(index, wide)
    return rounded


def _widened(value: ir.Value) -> ir.LazyTensor:
    """The weight in FP32, converted only when it is read."""
    source = value.const_value
    assert source is not None
    return ir.LazyTensor(
        lambda: ir.tensor(source.numpy().astype(np.float32)), dtype=FULL, shape=ir.Shape(source.shape.numpy()), name=value.name
    )
