"""INT8 for CPUs: linear layers as ONNX Runtime's integer products, blind to batch mates.

A layer listed as static quantizes its activation over the calibrated range, which costs one node:

    before   activation ─ MatMul(weight) ─ Add(bias) ─ y
    after    activation ─ QuantizeLinear(range) ─ MatMulIntegerToFloat(weight in INT8, bias) ─ y

Any other layer measures one scale per token while it runs, so that an outlier in one token leaves
the steps of the others fine:

    after    activation ─┬ ReduceMax ────────┐
                         ├ ReduceMin ─ Neg ─ Max ─ Mul(1/127) ─┬ scale
                         │                                     └ Div(1, scale) ─ rate
                         └ Mul(rate) ─ QuantizeLinear(1) ─ MatMulIntegerToFloat(weight in INT8)
                                                   y ─ Add(bias) ─ Mul(scale) ┘

ONNX Runtime's own dynamic quantization takes one scale per tensor, padding included, so that the
vector of a text depends on what it is batched with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lame_export.quantization.static_int8 import (
    LARGEST,
    SMALLEST_RANGE,
    weight_scales,
    weight_steps,
)
from lame_export.rewrites.fuse_experts import quantize_experts
from lame_export.rewrites.nodes import (
    CONTRIB,
    add_initializer,
    constant,
    drop_dead,
    make_node,
    new_value,
    take_over,
    value_like,
)
from lame_export.rewrites.scopes import layer_name, linear_layers, path_of

LARGEST_WEIGHT = 63
"""Largest step of a weight: 7 of 8 bits.

On x86 CPUs without VNNI, the sum of two 8-bit products can overflow the 16 bits that the
multiply-add instruction has for it.
"""
ZERO = 128
"""Zero point of an activation: symmetric, in unsigned integers.

ONNX Runtime's kernel for signed activations is five times slower than FP32.
"""


@dataclass(frozen=True)
class QuantizedActivation:
    """An activation in integers, and the nodes that make it."""

    nodes: list[ir.Node]
    steps: ir.Value
    scale: ir.Value
    """The size of a step: a constant if static, otherwise (…, 1), computed for each token."""


def quantize_cpu(model: ir.Model, ranges: Mapping[str, float], static: Collection[str] = ()) -> int:
    """Replaces every linear layer by an integer product, in place.

    Requires: an FP32 graph that went through `keep_scopes`, fused or not.
    Changes: the MatMuls of linear layers, and the biases of static ones, which the product adds;
    fused experts, whose activations stay FP32 (see `rewrites.fuse_experts`).
    Leaves alone: names of the values that layers read and give, and all that is no linear layer.

    Args:
        model: the graph.
        ranges: largest absolute value of each activation, by name; see `Scan.ranges`.
        static: names of layers ("q", "down") whose activations are quantized over these ranges;
            those of all others are scaled per token.

    Returns:
        The number of layers.
    """
    graph = model.graph
    layers = linear_layers(graph)
    one = constant(graph, "token.one", np.float32(1))
    zero = constant(graph, "token.zero", np.uint8(ZERO))
    # layers that read one activation share its steps, if they quantize it in the same way
    quantized: dict[tuple[ir.Value, bool], QuantizedActivation] = {}
    for layer in layers:
        activation = layer.inputs[0]
        assert activation is not None
        is_static = layer_name(layer) in static
        key = activation, is_static
        if key not in quantized:
            if is_static:
                quantized[key] = _over_range(graph, activation, ranges)
            else:
                quantized[key] = _per_token(graph, activation)
            graph.insert_before(layer, quantized[key].nodes)
        if is_static:
            _replace_static(graph, layer, quantized[key], zero)
        else:
            _replace_dynamic(graph, layer, quantized[key], one, zero)
    quantize_experts(graph, 8)
    drop_dead(model)  # FP32 weights, too, with the MatMuls that read them
    model.opset_imports[CONTRIB] = 1
    return len(layers)


def _replace_static(
    graph: ir.Graph, layer: ir.Node, activation: QuantizedActivation, zero: ir.Value
) -> None:
    """Puts the product in place of a layer and of the addition of its bias."""
    addition, bias = _bias(layer)
    last = addition or layer
    product = _product(graph, [layer, last], activation.steps, activation.scale, zero, bias)
    graph.insert_before(last, product)
    take_over(last.outputs[0], product.outputs[0])


def _replace_dynamic(
    graph: ir.Graph, layer: ir.Node, activation: QuantizedActivation, one: ir.Value, zero: ir.Value
) -> None:
    """Puts the product, and its multiplication by each token's scale, in place of a layer."""
    # the operator takes one scale for all tokens: here it is 1, and the scales are applied to its
    # result, which the bias must not be part of yet
    product = _product(graph, [layer, layer], activation.steps, one, zero, None)
    result = product.outputs[0]
    scaled = make_node(
        "Mul",
        [result, activation.scale],
        value_like(result, f"{result.name}.scaled"),
        path=path_of(layer),
        replaces=[layer],
    )
    graph.insert_before(layer, [product, scaled])
    take_over(layer.outputs[0], scaled.outputs[0])


def _product(
    graph: ir.Graph,
    replaces: Sequence[ir.Node],
    steps: ir.Value,
    scale: ir.Value,
    zero: ir.Value,
    bias: ir.Value | None,
) -> ir.Node:
    """Makes a layer's integer product: steps × weight steps × both scales, plus the bias.

    Args:
        graph: the graph, which gets constants for the weight's steps and scales.
        replaces: the layer's MatMul, and the last node that the product stands for.
        steps: the activation in integers.
        scale: the size of its steps.
        zero: its zero point.
        bias: a bias for the product to add, or None.
    """
    layer = replaces[0]
    weight = layer.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    scales = weight_scales(weight.const_value.numpy(), LARGEST_WEIGHT, np.float32)
    weights = weight_steps(weight.const_value, scales, LARGEST_WEIGHT)
    weights_io = add_initializer(graph, f"{weight.name}.int8", weights)
    scales_o = add_initializer(graph, f"{weight.name}.scale", ir.tensor(scales))
    inputs: list[ir.Value | None] = [steps, weights_io, scale, scales_o, zero]
    if bias is not None:
        inputs += [None, bias]  # between them, the weights' zero point, which is 0
    output = layer.outputs[0]
    return make_node(
        "MatMulIntegerToFloat",
        inputs,
        new_value(f"{output.name}.product", ir.DataType.FLOAT, output.shape),
        domain=CONTRIB,
        path=path_of(layer),
        replaces=replaces,
    )


def _bias(layer: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """Returns the addition of a layer's bias, and the bias, if it has one."""
    # a bias is added to all of the product, so it is the only reader
    readers = [user for user, _ in layer.outputs[0].uses()]
    if len(readers) != 1:
        return None, None
    (addition,) = readers
    # the residual's addition belongs to the block, not to the layer
    if addition.op_type != "Add" or path_of(addition) != path_of(layer):
        return None, None
    bias = addition.inputs[1]
    if bias is None or not bias.is_initializer():
        return None, None
    return addition, bias


def _over_range(
    graph: ir.Graph, activation: ir.Value, ranges: Mapping[str, float]
) -> QuantizedActivation:
    """Quantizes an activation over its calibrated range."""
    name = activation.name or ""
    step = np.float32(max(ranges[name], SMALLEST_RANGE) / LARGEST)
    scale = constant(graph, f"{name}.range", step)
    quantize = _quantize(graph, activation, scale, f"{name}.static")
    return QuantizedActivation([quantize], quantize.outputs[0], scale)


def _per_token(graph: ir.Graph, activation: ir.Value) -> QuantizedActivation:
    """Quantizes every token of an activation by a scale of its own: |x|max / 127."""
    stem = activation.name
    assert activation.shape is not None
    per_token = ir.Shape([*activation.shape[:-1], 1])

    def node(op: str, inputs: Sequence[ir.Value], name: str, shape: ir.Shape) -> ir.Node:
        attributes = {"keepdims": 1} if op.startswith("Reduce") else None
        output = new_value(f"{stem}.{name}", ir.DataType.FLOAT, shape)
        return make_node(op, inputs, output, attributes)

    axis = constant(graph, "token.axis", np.array([-1], dtype=np.int64))
    one = constant(graph, "token.one", np.float32(1))
    # the larger of max and -min is |x|max without a copy of the activation, which Abs would make
    highest = node("ReduceMax", [activation, axis], "reducemax", per_token)
    lowest = node("ReduceMin", [activation, axis], "reducemin", per_token)
    below = node("Neg", lowest.outputs, "below", per_token)
    # a token of zeros must not divide by 0
    least = constant(graph, "token.least", np.float32(1e-12))
    largest = node("Max", [highest.outputs[0], below.outputs[0], least], "largest", per_token)
    step = constant(graph, "token.step", np.float32(1 / LARGEST))
    scale = node("Mul", [largest.outputs[0], step], "scale", per_token)
    # one division per token and one multiplication per channel, instead of a division per channel
    rate = node("Div", [one, scale.outputs[0]], "rate", per_token)
    ratio = node("Mul", [activation, rate.outputs[0]], "ratio", activation.shape)
    quantize = _quantize(graph, ratio.outputs[0], one, f"{stem}.u8")
    nodes = [highest, lowest, below, largest, scale, rate, ratio, quantize]
    return QuantizedActivation(nodes, quantize.outputs[0], scale.outputs[0])


def _quantize(graph: ir.Graph, value: ir.Value, scale: ir.Value, name: str) -> ir.Node:
    """Makes a QuantizeLinear to unsigned 8-bit integers around `ZERO`."""
    zero = constant(graph, "token.zero", np.uint8(ZERO))
    # ONNX Runtime's own operator: for opset 23 the standard one has no kernel in 1.23, which is the
    # last version for Python 3.10
    return make_node(
        "QuantizeLinear",
        [value, scale, zero],
        new_value(name, ir.DataType.UINT8, value.shape),
        domain=CONTRIB,
    )
