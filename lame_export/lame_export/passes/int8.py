"""INT8 with Q/DQ: static symmetric activations, per-channel weights, linear layers only.

Works on the FP16-typed graph: attention, norms and residuals keep the types they have there, and so do the linear
layers that `choice` keeps, `KEPT` in most models: they read no norm's output, and where a few of their activations
reach far beyond the others, one scale for all makes steps so coarse that a last-bit difference between two batch
shapes, where it flips one rounding, shows in the embedding. Weight and activation of every other linear layer pass
through QuantizeLinear → DequantizeLinear, which TensorRT turns into INT8 kernels. No bias is quantised (TensorRT
refuses INT32 biases behind Q/DQ).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lame_export.passes.nodes import add_initializer, drop_unused_initializers, make_node
from lame_export.passes.scopes import module_of

KEPT = frozenset({"o", "down", "proj", "fc2", "patch_embed"})
"""Linear layers, by their names in `lame_export.forward`, that read no norm's output, and the first of the vision tower.

The first reads pixels: equal ones become equal steps, and what is computed from them lies on ties, where a last bit
decides the next rounding.
"""


def linear_layers(graph: ir.Graph) -> list[ir.Node]:
    """The MatMuls of `Affine` modules: an activation times a constant (in, out) weight."""
    return [
        node
        for node in graph
        if node.op_type == "MatMul" and module_of(node) == "Affine" and node.inputs[1] is not None and node.inputs[1].is_initializer()
    ]


def path_of(node: ir.Node) -> str:
    """The path of the module a node belongs to: "blocks.0.down" for `blocks.0.down/MatMul`."""
    return (node.name or "").split("/")[0]


def layer_name(node: ir.Node) -> str:
    """The last part of that path: "down" for `blocks.0.down/MatMul`."""
    return path_of(node).rsplit(".", 1)[-1]


def quantise_static(model: ir.Model, ranges: dict[str, float], keep: frozenset[str] = KEPT, *, ends: bool = False) -> int:
    """Puts Q/DQ around the linear layers of an FP16-typed graph, in place.

    Args:
        model: the graph.
        ranges: how far each activation of the FP32 graph reaches, by name (see `Scan.ranges`); a value's half copy is
            looked up under the name it was cast from.
        keep: layers that stay as they are, by name.
        ends: whether the first and the last block, and what is in no block, stay as they are; in a graph of two blocks
            they do not.

    Returns:
        How many layers were quantised.
    """
    graph = model.graph
    quantised: dict[ir.Value, ir.Value] = {}
    layers = [node for node in linear_layers(graph) if layer_name(node) not in keep]
    if ends:
        blocks = {block for node in graph if (block := _block(node)) is not None}
        inner = [node for node in layers if _block(node) not in (None, min(blocks, default=0), max(blocks, default=0))]
        layers = inner or layers
    for node in layers:
        activation, weight = node.inputs
        assert activation is not None
        assert weight is not None
        if activation not in quantised:
            largest = ranges[_source_name(activation)]
            quantised[activation] = _quantise_activation(graph, activation, largest, node)
        node.replace_input_with(0, quantised[activation])
        node.replace_input_with(1, _quantise_weight(graph, weight, node))
    drop_unused_initializers(graph)
    return len(layers)


def _block(node: ir.Node) -> int | None:
    """The number of the block a node belongs to."""
    head, _, rest = path_of(node).partition(".")
    return int(rest.split(".")[0]) if head == "blocks" else None


def bypass(model: ir.Model, paths: Sequence[str]) -> None:
    """Takes the activations of linear layers past their Q/DQ, in place, to see what quantising them costs."""
    for node in model.graph:
        if node.op_type != "MatMul" or path_of(node) not in paths:
            continue
        restored = node.inputs[0].producer() if node.inputs[0] is not None else None
        steps = restored.inputs[0].producer() if restored is not None and restored.inputs[0] is not None else None
        if restored is not None and steps is not None and (restored.op_type, steps.op_type) == ("DequantizeLinear", "QuantizeLinear"):
            node.replace_input_with(0, steps.inputs[0])


def weight_scales(weight_io: npt.NDArray[np.float32], largest: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Per output channel, the step that maps its largest weight to `largest`, rounded to `dtype`."""
    scales = np.abs(weight_io).max(axis=0) / largest
    return np.maximum(scales, np.finfo(np.float16).tiny).astype(dtype)


def weight_steps(source: ir.TensorProtocol, scales: npt.NDArray[np.generic], largest: int) -> ir.LazyTensor:
    """A weight in INT8 steps of its scales, computed only when it is read."""

    def steps() -> ir.TensorProtocol:
        return ir.tensor(np.clip(np.rint(source.numpy() / scales.astype(np.float32)), -largest, largest).astype(np.int8))

    return ir.LazyTensor(steps, dtype=ir.DataType.INT8, shape=ir.Shape(source.shape.numpy()))


def _source_name(value: ir.Value) -> str:
    producer = value.producer()
    if producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        return producer.inputs[0].name or ""
    return value.name or ""


def _quantise_activation(graph: ir.Graph, value: ir.Value, largest: float, before: ir.Node) -> ir.Value:
    assert value.dtype is not None
    dtype = value.dtype.numpy()
    scale = add_initializer(graph, f"{value.name}.scale", ir.tensor(np.asarray(max(largest, 1e-3) / 127, dtype=dtype)))
    zero = add_initializer(graph, f"{value.name}.zero", ir.tensor(np.asarray(0, dtype=np.int8)))
    quantise = make_node("QuantizeLinear", [value, scale, zero], f"{value.name}.int8", ir.DataType.INT8, value.shape)
    restore = make_node("DequantizeLinear", [quantise.outputs[0], scale, zero], f"{value.name}.dq", value.dtype, value.shape)
    graph.insert_before(before, [quantise, restore])
    return restore.outputs[0]


def _quantise_weight(graph: ir.Graph, weight: ir.Value, before: ir.Node) -> ir.Value:
    source = weight.const_value
    assert source is not None
    assert weight.dtype is not None
    scales = weight_scales(source.numpy().astype(np.float32), 127, weight.dtype.numpy())
    stem = (weight.name or "").removesuffix(".half")
    quantised = add_initializer(graph, f"{stem}.int8", weight_steps(source, scales, 127))
    scale = add_initializer(graph, f"{stem}.scale", ir.tensor(scales))
    zero = add_initializer(graph, f"{stem}.zero", ir.tensor(np.zeros(len(scales), dtype=np.int8)))
    restore = make_node("DequantizeLinear", [quantised, scale, zero], f"{stem}.dq", weight.dtype, weight.shape, {"axis": 1})
    graph.insert_before(before, restore)
    return restore.outputs[0]
