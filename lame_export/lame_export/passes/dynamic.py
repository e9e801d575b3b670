"""INT8 for CPUs: dynamic activations, per-channel weights, in the form ONNX Runtime fuses.

Activations are measured at run time with one scale per tensor, padding and batch mates included, so a row's
result depends a little on its company; the gates know (see `gates`). Weights use 7 of their 8 bits: on x86
CPUs without VNNI two 8-bit products can overflow the 16-bit sum of the multiply-add instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lame_export.passes.fp16 import add_initializer, drop_unused_initializers
from lame_export.passes.int8 import linear_layers, weight_scales

LARGEST = 63


def quantise_dynamic(model: ir.Model) -> int:
    """Rewrites every linear layer of an FP32 graph in place; returns how many there were."""
    graph = model.graph
    measured: dict[ir.Value, list[ir.Value]] = {}
    layers = linear_layers(graph)
    for node in layers:
        activation, weight = node.inputs
        assert activation is not None
        assert weight is not None
        assert weight.const_value is not None
        if activation not in measured:
            stem = activation.name
            measure = _node("DynamicQuantizeLinear", [activation], [f"{stem}.u8", f"{stem}.scale", f"{stem}.zero"])
            measure.outputs[0].dtype, measure.outputs[0].shape = ir.DataType.UINT8, activation.shape
            for output, dtype in zip(measure.outputs[1:], (ir.DataType.FLOAT, ir.DataType.UINT8), strict=True):
                output.dtype, output.shape = dtype, ir.Shape([])
            graph.insert_before(node, measure)
            measured[activation] = list(measure.outputs)
        integers, scale, zero = measured[activation]

        values_io = weight.const_value.numpy()
        scales = weight_scales(values_io, LARGEST, np.float32)
        steps = np.clip(np.rint(values_io / scales), -LARGEST, LARGEST).astype(np.int8)
        quantised = add_initializer(graph, f"{weight.name}.int8", ir.tensor(steps))
        step = add_initializer(graph, f"{weight.name}.scale", ir.tensor(scales))
        weight_zero = add_initializer(graph, f"{weight.name}.zero", ir.tensor(np.zeros(len(scales), dtype=np.int8)))

        output = node.outputs[0]
        product = _node("MatMulInteger", [integers, quantised, zero, weight_zero], [f"{output.name}.int32"])
        product.outputs[0].dtype, product.outputs[0].shape = ir.DataType.INT32, output.shape
        real = _node("Cast", product.outputs, [f"{output.name}.float"], [ir.AttrInt64("to", int(ir.DataType.FLOAT))])
        both = _node("Mul", [scale, step], [f"{output.name}.step"])
        scaled = _node("Mul", [real.outputs[0], both.outputs[0]], [f"{output.name}.scaled"])
        for each, shape in ((real, output.shape), (both, step.shape), (scaled, output.shape)):
            each.outputs[0].dtype, each.outputs[0].shape = ir.DataType.FLOAT, shape
        graph.insert_before(node, [product, real, both, scaled])
        scaled.outputs[0].name, output.name = output.name, None
        output.replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
    drop_unused_initializers(graph)
    return len(layers)


def _node(op: str, inputs: Sequence[ir.Value], names: list[str], attributes: list[ir.Attr] | None = None) -> ir.Node:
    node = ir.Node("", op, list(inputs), attributes or [], num_outputs=len(names), name=f"{names[0]}/{op}")
    for output, name in zip(node.outputs, names, strict=True):
        output.name = name
    return node
