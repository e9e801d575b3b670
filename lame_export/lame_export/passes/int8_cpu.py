"""INT8 for CPUs: every linear layer as one of ONNX Runtime's integer products, and no activation scaled by its batch mates.

An activation is quantised over its calibrated range where the layer is listed as static, which costs one node, and
otherwise by one scale per token, measured while it runs: an outlier in one token leaves the others' steps fine. (ONNX
Runtime's own dynamic form takes one scale per tensor, padding included, so that a text's vector depends on what it is
batched with.) Weights use 7 of their 8 bits: on x86 CPUs without VNNI two 8-bit products can overflow the 16-bit sum of
the multiply-add instruction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lame_export.passes.int8 import layer_name, linear_layers, path_of, weight_scales, weight_steps
from lame_export.passes.nodes import CONTRIB, add_initializer, constant, drop_dead, make_node, take_over

LARGEST = 63
ZERO = 128
"""The zero point of an activation: symmetric, in unsigned integers, for which ONNX Runtime has the fast kernel."""


def quantise_cpu(model: ir.Model, ranges: Mapping[str, float], static: Collection[str] = ()) -> int:
    """Rewrites every linear layer of an FP32 graph in place; returns how many there were.

    Args:
        model: an FP32 graph that went through `keep_scopes`, fused or not.
        ranges: how far each activation reaches, by name; see `Scan.ranges`.
        static: names of layers ("q", "down") whose activations are quantised over these ranges; the others' are
            scaled per token.
    """
    graph = model.graph
    quantised: dict[tuple[ir.Value, bool], tuple[ir.Value, ir.Value]] = {}
    layers = linear_layers(graph)
    one, zero = constant(graph, "token.one", np.float32(1)), constant(graph, "token.zero", np.uint8(ZERO))
    for node in layers:
        activation, weight = node.inputs
        assert activation is not None
        assert weight is not None
        fixed = layer_name(node) in static
        if (activation, fixed) not in quantised:
            make = _over_range(graph, activation, ranges) if fixed else _per_token(graph, activation)
            nodes, quantised[activation, fixed] = make
            graph.insert_before(node, nodes)
        integers, scale = quantised[activation, fixed]
        last, added = (fixed and _bias(node)) or (node, None)
        product = _product(graph, node, last, [integers, weight, scale if fixed else one, zero])
        if added is not None:
            product.resize_inputs(7)
            product.replace_input_with(6, added)
        result = product.outputs[0]
        graph.insert_before(last, product)
        if not fixed:
            scaled = make_node("Mul", [result, scale], f"{result.name}.scaled", result.dtype, result.shape, path=path_of(node), like=[node])
            graph.insert_before(last, scaled)
            result = scaled.outputs[0]
        take_over(last.outputs[0], result)
    drop_dead(model)
    model.opset_imports[CONTRIB] = 1
    return len(layers)


def _product(graph: ir.Graph, layer: ir.Node, last: ir.Node, inputs: list[ir.Value]) -> ir.Node:
    """The integer product of a layer, in real numbers but for a token's scale; `last` is the last node it stands for."""
    integers, weight, scale, zero = inputs
    assert weight.const_value is not None
    scales = weight_scales(weight.const_value.numpy(), LARGEST, np.float32)
    steps = add_initializer(graph, f"{weight.name}.int8", weight_steps(weight.const_value, scales, LARGEST))
    per_column = add_initializer(graph, f"{weight.name}.scale", ir.tensor(scales))
    output = layer.outputs[0]
    return make_node(
        "MatMulIntegerToFloat",
        [integers, steps, scale, per_column, zero],
        f"{output.name}.product",
        ir.DataType.FLOAT,
        output.shape,
        domain=CONTRIB,
        path=path_of(layer),
        like=[layer, last],
    )


def _bias(layer: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The addition behind a layer's product and what it adds, if there is one."""
    users = [user for user, _ in layer.outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "Add" or path_of(users[0]) != path_of(layer):
        return None
    added = users[0].inputs[1]
    return None if added is None or not added.is_initializer() else (users[0], added)


Quantised = tuple[list[ir.Node], tuple[ir.Value, ir.Value]]
"""Nodes that quantise an activation; its integers and scale."""


def _over_range(graph: ir.Graph, activation: ir.Value, ranges: Mapping[str, float]) -> Quantised:
    name = activation.name or ""
    scale = constant(graph, f"{name}.range", np.float32(max(ranges[name], 1e-3) / 127))
    quantise = _quantise(graph, activation, scale, f"{name}.static")
    return [quantise], (quantise.outputs[0], scale)


def _per_token(graph: ir.Graph, activation: ir.Value) -> Quantised:
    """The scale's last axis has length 1."""
    stem = activation.name
    assert activation.shape is not None
    narrow = ir.Shape([*activation.shape[:-1], 1])
    axis = constant(graph, "token.axis", np.array([-1], dtype=np.int64))
    one = constant(graph, "token.one", np.float32(1))
    ends = [_float(op, [activation, axis], f"{stem}.{op.lower()}", narrow, {"keepdims": 1}) for op in ("ReduceMax", "ReduceMin")]
    below = _float("Neg", ends[1].outputs, f"{stem}.below", narrow)
    least = constant(graph, "token.least", np.float32(1e-12))
    largest = _float("Max", [ends[0].outputs[0], below.outputs[0], least], f"{stem}.largest", narrow)
    scale = _float("Mul", [largest.outputs[0], constant(graph, "token.step", np.float32(1 / 127))], f"{stem}.scale", narrow)
    rate = _float("Div", [one, scale.outputs[0]], f"{stem}.rate", narrow)
    ratio = _float("Mul", [activation, rate.outputs[0]], f"{stem}.ratio", activation.shape)
    quantise = _quantise(graph, ratio.outputs[0], one, f"{stem}.u8")
    return [*ends, below, largest, scale, rate, ratio, quantise], (quantise.outputs[0], scale.outputs[0])


def _quantise(graph: ir.Graph, value: ir.Value, scale: ir.Value, name: str) -> ir.Node:
    """ONNX Runtime's own operator: the standard one has no kernel for opset 23 in 1.23, the last for Python 3.10."""
    zero = constant(graph, "token.zero", np.uint8(ZERO))
    return make_node("QuantizeLinear", [value, scale, zero], name, ir.DataType.UINT8, value.shape, domain=CONTRIB)


def _float(
    op: str, inputs: Sequence[ir.Value], output: str, shape: ir.Shape | None, attributes: Mapping[str, int] | None = None
) -> ir.Node:
    return make_node(op, inputs, output, ir.DataType.FLOAT, shape, attributes)
