"""Emulation: an FP32 copy of an FP16 or INT8 graph that rounds to half wherever the original does.

ONNX Runtime's CPU provider computes FP16 nodes in FP32 and drops the rounding between them. A
MatMul whose result leaves half's range stays finite there, so running the FP16 file on a CPU
proves nothing. Here every node computes in FP32, and its result is rounded explicitly:

    before   MatMul ── y (half)
    after    MatMul ── y (FP32) ── Cast(FP16) ── y.round16 ── Cast(FP32) ── y.round32

ONNX Runtime keeps such pairs of casts at every level of optimization, overflow to infinity
included. Only the order of accumulation is left to the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lame_export.rewrites.half import FULL, HALF, insert_cast
from lame_export.rewrites.scopes import path_of


def emulate(model: ir.Model, exact: Sequence[str] = ()) -> int:
    """Makes an FP16 or INT8 graph compute in FP32 and round as it did before, in place.

    Requires: a graph typed by `type_fp16`, quantized by `quantize_static` or not.
    Changes: half values and weights become FP32; two Casts follow every half value.
    Leaves alone: FP32 islands; QuantizeLinear and DequantizeLinear stay, and work on FP32 values.

    Args:
        model: the graph.
        exact: paths of modules whose own values are not rounded, as if they were FP32 islands.

    Returns:
        The number of values that are rounded.
    """
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype == HALF:
            value.const_value = _widened(value)
            value.dtype = FULL
    rounded = 0
    for node in list(graph):  # a copy: casts are inserted while it is walked
        for output in node.outputs:
            if output.dtype != HALF:
                continue
            output.dtype = FULL
            # a Cast to half would round by itself, and give a type that its readers no longer take
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", int(FULL))
            if path_of(node) not in exact:
                _round(graph, node, output)
                rounded += 1
    return rounded


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    """Lets all readers of `output` read it rounded to half."""
    uses = list(output.uses())  # before the first Cast becomes a reader itself
    narrow = insert_cast(graph, output, HALF, node, f"{output.name}.round16")
    narrowing = narrow.producer()
    assert narrowing is not None
    wide = insert_cast(graph, narrow, FULL, narrowing, f"{output.name}.round32")
    for reader, index in uses:
        reader.replace_input_with(index, wide)


def _widened(value: ir.Value) -> ir.LazyTensor:
    """Returns the half weight in FP32, converted only when it is read."""
    source = value.const_value
    assert source is not None
    # exact, since every half number is an FP32 number: the weight stays rounded as it was stored
    return ir.LazyTensor(
        lambda: ir.tensor(source.numpy().astype(np.float32)),
        dtype=FULL,
        shape=ir.Shape(source.shape.numpy()),
        name=value.name,
    )
