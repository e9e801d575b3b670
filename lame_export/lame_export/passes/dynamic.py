"""INT8 for CPUs: activations measured at run time, one scale per token, and per-channel weights.

With one scale per token a row's result does not depend on its batch mates, and an outlier in one token leaves the
others' steps fine. (ONNX Runtime's own dynamic form takes one scale per tensor, padding included; measured here, it is
no faster by more than a few percent.) Weights use 7 of their 8 bits: on x86 CPUs without VNNI two 8-bit products can
overflow the 16-bit sum of the multiply-add instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lame_export.passes.fp16 import add_initializer, drop_unused_initializers
from lame_export.passes.int8 import linear_layers, weight_scales, weight_steps

LARGEST = 63
ZERO = 128
"""The zero point of a per-token activation: symmetric, in unsigned integers, for which ONNX Runtime has the fast kernel."""


def quantise_dynamic(model: ir.Model) -> int:
    """Rewrites every linear layer of an FP32 graph in place; returns how many there were.

    Args:
        model: an FP32 graph that went through `keep_scopes`.
    """
    graph = model.graph
    measured: dict[ir.Value, list[ir.Value]] = {}
    layers = linear_layers(graph)
    for node in layers:
        activation, weight = node.inputs
        assert activation is not None
        assert weight is not None
        assert weight.const_value is not None
        if activation not in measured:
            nodes, measured[activation] = _measure(graph, activation)
            graph.insert_before(node, nodes)
        integers, scale, zero = measured[activation]

        scales = weight_scales(weight.const_value.numpy(), LARGEST, np.float32)
        quantised = add_initializer(graph, f"{weight.name}.int8", weight_steps(weight.const_value, scales, LARGEST))
        step = add_initializer(graph, f"{weight.name}.scale", ir.tensor(scales))
        weight_zero = add_initializer(graph, f"{weight.name}.zero", ir.tensor(np.zeros(len(scales), dtype=np.int8)))

        output = node.outputs[0]
        product = _node("MatMulInteger", [integers, quantised, zero, weight_zero], [f"{output.name}.int32"])
        product.outputs[0].dtype, product.outputs[0].shape = ir.DataType.INT32, output.shape
        real = _float("Cast", product.outputs, f"{output.name}.float", output.shape, [ir.AttrInt64("to", int(ir.DataType.FLOAT))])
        first = _float("Mul", [real.outputs[0], step], f"{output.name}.step", output.shape)
        scaled = _float("Mul", [first.outputs[0], scale], f"{output.name}.scaled", output.shape)
        graph.insert_before(node, [product, real, first, scaled])
        scaled.outputs[0].name, output.name = output.name, None
        output.replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
    drop_unused_initializers(graph)
    return len(layers)


def _measure(graph: ir.Graph, activation: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """Nodes that measure and quantise an activation; its integers, scale (last axis of length 1) and zero point."""

    def constant(name: str, value: np.generic | np.ndarray) -> ir.Value:
        return graph.initializers.get(name) or add_initializer(graph, name, ir.tensor(np.asarray(value), name=name))

    stem = activation.name
    assert activation.shape is not None
    narrow = ir.Shape([*activation.shape[:-1], 1])
    size = _float("Abs", [activation], f"{stem}.size", activation.shape)
    axis = constant("token.axis", np.array([-1], dtype=np.int64))
    largest = _float("ReduceMax", [size.outputs[0], axis], f"{stem}.largest", narrow, [ir.AttrInt64("keepdims", 1)])
    share = _float("Mul", [largest.outputs[0], constant("token.step", np.float32(1 / 127))], f"{stem}.share", narrow)
    scale = _float("Max", [share.outputs[0], constant("token.least", np.float32(1e-12))], f"{stem}.scale", narrow)
    ratio = _float("Div", [activation, scale.outputs[0]], f"{stem}.ratio", activation.shape)
    zero = constant("token.zero", np.uint8(ZERO))
    quantise = _node("QuantizeLinear", [ratio.outputs[0], constant("token.one", np.float32(1)), zero], [f"{stem}.u8"])
    quantise.outputs[0].dtype, quantise.outputs[0].shape = ir.DataType.UINT8, activation.shape
    return [size, largest, share, scale, ratio, quantise], [quantise.outputs[0], scale.outputs[0], zero]


def _float(op: str, inputs: Sequence[ir.Value], name: str, shape: ir.Shape | None, attributes: list[ir.Attr] | None = None) -> ir.Node:
    node = _node(op, inputs, [name], attributes)
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, shape
    return node


def _node(op: str, inputs: Sequence[ir.Value], names: list[str], attributes: list[ir.Attr] | None = None) -> ir.Node:
    node = ir.Node("", op, list(inputs), attributes or [], num_outputs=len(names), name=f"{names[0]}/{op}")
    for output, name in zip(node.outputs, names, strict=True):
        output.name = name
    return node
