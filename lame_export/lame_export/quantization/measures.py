"""The nodes that measure the values of a graph, which calibration adds to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from lame_export.forward import MASKED

AMAX, CHANNELS, TOKENS = "amax:", "channels:", "tokens:"
"""Prefixes of the outputs that measure a value: largest |x| of all, per channel, per token."""


def add_measures(graph: ir.Graph, activations: set[str]) -> None:
    """Adds outputs that measure every float value of the graph, masked scores aside.

    before   node ─ x
    after    node ─ x ─ Abs ─┬ ReduceMax ─────────────────── amax:x
                             ├ ReduceMax(all but the last) ─ channels:x   (activations only)
                             └ ReduceMax(the last axis) ──── tokens:x     (activations only)
    """
    for node in list(graph):  # a copy: nodes are added while it is walked
        if mask_of(node) is not None:
            continue
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT:
                continue
            axes: dict[str, list[int] | None] = {AMAX: None}
            if value.name in activations and value.shape is not None:
                rank = len(value.shape)
                axes |= {CHANNELS: list(range(rank - 1)), TOKENS: [rank - 1]}
            # right after the node: ONNX Runtime frees a value after its last reader, and measures
            # at the end of the graph would keep all of them alive until then
            graph.insert_after(node, _measures(graph, value, axes))


def _measures(
    graph: ir.Graph, value: ir.Value, axes: Mapping[str, list[int] | None]
) -> list[ir.Node]:
    """Makes the nodes that measure `value` over some axes each, None for all of them."""
    absolute = ir.Node("", "Abs", [value], num_outputs=1)
    nodes = [absolute]
    for prefix, over in axes.items():
        inputs = [absolute.outputs[0]]
        # axes are an input of ReduceMax since opset 18; without it, it reduces all of them
        if over is not None:
            attribute = ir.AttrInt64s("value_ints", over)
            constant = ir.Node("", "Constant", [], [attribute], num_outputs=1)
            nodes.append(constant)
            inputs.append(constant.outputs[0])
        keep = ir.AttrInt64("keepdims", 0)
        largest = ir.Node("", "ReduceMax", inputs, [keep], num_outputs=1)
        output = largest.outputs[0]
        output.name, output.dtype = f"{prefix}{value.name}", ir.DataType.FLOAT
        nodes.append(largest)
        graph.outputs.append(output)
    return nodes


def mask_of(node: ir.Node) -> ir.Value | None:
    """Returns the constant that a masking `Where` writes; None for any other node."""
    # the Where that mixes vision rows into the tokens chooses between two computed values
    value = node.inputs[2] if node.op_type == "Where" else None
    if value is None or value.const_value is None:
        return None
    return value if np.all(value.const_value.numpy() == np.float32(MASKED)) else None
