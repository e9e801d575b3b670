"""INT8 with Q/DQ: static symmetric activations, per-channel weights, linear layers only.

Works on the FP16-typed graph: attention, norms and residuals keep the types they have there, and
so do linear layers that the search leaves in half, in most models those of `HALF_LAYERS`. TensorRT
turns a product of dequantized inputs into an INT8 kernel:

    before   activation ─ MatMul ─ Add(bias)
             weight (half) ─┘
    after    activation ─ QuantizeLinear ─ DequantizeLinear ─ MatMul ─ Add(bias)
             weight (INT8) ─────────────── DequantizeLinear ────┘

No bias is quantized: TensorRT refuses INT32 biases after Q/DQ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lame_export.rewrites.nodes import (
    add_initializer,
    drop_unused_initializers,
    make_node,
    new_value,
    value_like,
)
from lame_export.rewrites.scopes import layer_name, linear_layers, path_of

HALF_LAYERS = frozenset({"o", "down", "proj", "fc2", "patch_embed"})
"""Linear layers, by name in `lame_export.forward`, that stay in half precision in most models.

The first four read no norm's output. If a few of their activations reach far beyond the others,
one scale for all makes steps so coarse that a last-bit difference between two batch shapes shows
in the embedding as soon as it flips one rounding. `patch_embed` reads pixels: equal ones become
equal steps, and results computed from them lie on ties, where a last bit decides the next rounding.
"""
LARGEST = 127
"""Largest step of a symmetric INT8 scale; -128 is not used: both signs reach equally far."""
SMALLEST_RANGE = 1e-3
"""Least range of an activation: one that calibration inputs never moved would have a scale of 0."""


def quantize_static(
    model: ir.Model,
    ranges: Mapping[str, float],
    skip: frozenset[str] = HALF_LAYERS,
    *,
    skip_ends: bool = False,
) -> int:
    """Puts Q/DQ around linear layers, in place.

    Requires: a graph typed by `type_fp16`.
    Changes: both inputs of the MatMuls of linear layers; adds scales, zero points and INT8 weights.
    Leaves alone: biases, the layers that are skipped, and everything that is no linear layer.

    Args:
        model: the graph.
        ranges: largest absolute value of each activation of the FP32 graph, by name (see
            `Scan.ranges`); a value's half copy is looked up under the name it was cast from.
        skip: names of layers that stay in half precision.
        skip_ends: whether the first and the last block, and layers in no block, stay in half
            precision, too. If that leaves nothing, as in a graph of two blocks, it has no effect.

    Returns:
        The number of layers that are quantized.
    """
    graph = model.graph
    layers = [node for node in linear_layers(graph) if layer_name(node) not in skip]
    if skip_ends:
        # if nothing were left, the graph would not be INT8 at all
        layers = _inner(graph, layers) or layers
    restored: dict[ir.Value, ir.Value] = {}  # by activation: layers that read one share its Q/DQ
    for node in layers:
        activation, weight = node.inputs
        assert activation is not None
        assert weight is not None
        if activation not in restored:
            largest = ranges[_fp32_name(activation)]
            restored[activation] = _quantize_activation(graph, activation, largest, node)
        node.replace_input_with(0, restored[activation])
        node.replace_input_with(1, _quantize_weight(graph, weight, node))
    drop_unused_initializers(graph)
    return len(layers)


def _inner(graph: ir.Graph, layers: list[ir.Node]) -> list[ir.Node]:
    """Returns the layers that are in a block, but neither in the first nor in the last."""
    numbers = [_block_number(node) for node in graph]
    blocks = {number for number in numbers if number is not None}
    outside = (None, min(blocks, default=0), max(blocks, default=0))
    return [node for node in layers if _block_number(node) not in outside]


def _block_number(node: ir.Node) -> int | None:
    """Returns the number of the block a node belongs to: 3 for `blocks.3.down/MatMul`."""
    head, _, rest = path_of(node).partition(".")
    return int(rest.split(".")[0]) if head == "blocks" else None


def bypass(model: ir.Model, paths: Sequence[str]) -> None:
    """Lets linear layers read their activations as they were before Q/DQ, in place.

    The bisection uses this to see what quantizing an activation costs. Weights stay quantized.

    Args:
        model: a graph that went through `quantize_static`.
        paths: paths of the layers.
    """
    for node in model.graph:
        if node.op_type != "MatMul" or path_of(node) not in paths:
            continue
        restore = _computed_by(node.inputs[0], "DequantizeLinear")
        # the pair itself stays, since other layers may read it
        quantize = None if restore is None else _computed_by(restore.inputs[0], "QuantizeLinear")
        if quantize is not None:
            node.replace_input_with(0, quantize.inputs[0])


def _computed_by(value: ir.Value | None, op: str) -> ir.Node | None:
    """Returns the node that computes `value` if its operator is `op`."""
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == op else None


def weight_scales(
    weight_io: npt.NDArray[np.float32], largest: int, dtype: npt.DTypeLike
) -> npt.NDArray[np.generic]:
    """Returns one scale per output channel, by which its largest weight becomes `largest` steps.

    Args:
        weight_io: float32 (in, out).
        largest: largest step that is used, 127 for all of INT8.
        dtype: type the scales are rounded to: the file's own, so that steps are counted in it.

    Returns:
        Scales (out,) in `dtype`.
    """
    scales = np.abs(weight_io).max(axis=0) / largest
    # half's smallest normal number, for FP32 graphs, too: a channel of zeros must not divide by 0
    return np.maximum(scales, np.finfo(np.float16).tiny).astype(dtype)


def weight_steps(
    source: ir.TensorProtocol, scales: npt.NDArray[np.generic], largest: int
) -> ir.LazyTensor:
    """Returns a weight in INT8 steps of its scales, (in, out), computed only when it is read."""

    # read again when the file is written, rather than held until then
    def steps() -> ir.TensorProtocol:
        rounded = np.rint(source.numpy() / scales.astype(np.float32))

        return ir.tensor(np.clip(rounded, -largest, largest).astype(np.int8))

    return ir.LazyTensor(steps, dtype=ir.DataType.INT8, shape=ir.Shape(source.shape.numpy()))


def _fp32_name(value: ir.Value) -> str:
    """Returns the name by which the FP32 graph, and so calibration, knows an activation."""
    cast = _computed_by(value, "Cast")
    if cast is not None and cast.inputs[0] is not None:
        return cast.inputs[0].name or ""
    return value.name or ""


def _quantize_activation(
    graph: ir.Graph, value: ir.Value, largest: float, before: ir.Node
) -> ir.Value:
    """Adds Q/DQ of an activation over ±`largest`; returns the restored activation."""
    assert value.dtype is not None
    # ONNX wants the scale in the activation's own type, and TensorRT a zero point of 0
    step = np.asarray(max(largest, SMALLEST_RANGE) / LARGEST, dtype=value.dtype.numpy())
    scale = add_initializer(graph, f"{value.name}.scale", ir.tensor(step))
    # written down although it is 0: without a zero point QuantizeLinear gives UINT8
    zero = add_initializer(graph, f"{value.name}.zero", ir.tensor(np.asarray(0, dtype=np.int8)))
    steps = new_value(f"{value.name}.int8", ir.DataType.INT8, value.shape)
    quantize = make_node("QuantizeLinear", [value, scale, zero], steps)
    restored = value_like(value, f"{value.name}.dq")
    restore = make_node("DequantizeLinear", [steps, scale, zero], restored)
    graph.insert_before(before, [quantize, restore])
    return restored


def _quantize_weight(graph: ir.Graph, weight: ir.Value, before: ir.Node) -> ir.Value:
    """Stores a weight in INT8, one scale per output channel; returns the restored weight."""
    source = weight.const_value
    assert source is not None
    assert weight.dtype is not None
    scales = weight_scales(source.numpy().astype(np.float32), LARGEST, weight.dtype.numpy())
    # stored in integers and without a QuantizeLinear: a quarter of the bytes in FP32
    stem = (weight.name or "").removesuffix(".half")
    steps = add_initializer(graph, f"{stem}.int8", weight_steps(source, scales, LARGEST))
    scale = add_initializer(graph, f"{stem}.scale", ir.tensor(scales))
    zeros = np.zeros(len(scales), dtype=np.int8)
    zero = add_initializer(graph, f"{stem}.zero", ir.tensor(zeros))
    restored = value_like(weight, f"{stem}.dq")
    # axis 1: weights are stored (in, out), and every output channel has a scale
    restore = make_node("DequantizeLinear", [steps, scale, zero], restored, {"axis": 1})
    graph.insert_before(before, restore)
    return restored
