"""Weights in 8 or 4 bits, activations as they are: for CPUs where memory is what is short.

Every linear layer becomes ONNX Runtime's `MatMulNBits`: weights in blocks along the input, each with a step of its own.
The token table, which in a small model is a large part of it, is kept in 8 bits with one step per row. Nothing is calibrated, and no
result depends on batch mates. Smoothing is left out: it makes weights harder to quantise, and here they are all there is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lame_export.passes.int8 import linear_layers, path_of
from lame_export.passes.nodes import CONTRIB, add_initializer, drop_dead, make_node, take_over

Floats = npt.NDArray[np.float32]
BLOCK = {8: 128, 4: 32}
"""Weights along the input that share a step: coarser steps want shorter blocks."""
SHARES = {8: (1.0,), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)}
"""Of the step that holds a block's largest weight, tried for the least squared error: cutting it a little makes all others finer."""
TABLE = "table_VD"
INTEGER_PRODUCTS = 4
"""`accuracy_level` of MatMulNBits: activations are rounded to 8 bits block by block inside the kernel, the fast form."""


def quantise_weights(model: ir.Model, bits: int) -> int:
    """Rewrites every linear layer and the token table of an FP32 graph in place; returns how many layers there were.

    Args:
        model: an FP32 graph that went through `keep_scopes`, fused or not.
        bits: 8 or 4.
    """
    graph = model.graph
    layers = linear_layers(graph)
    for node in layers:
        activation, weight = node.inputs
        assert weight is not None
        assert weight.const_value is not None
        source = weight.const_value
        read, made = source.shape.numpy()
        scales = _block_scales(_blocks(source, bits), bits)
        size = BLOCK[bits] * bits // 8
        steps = ir.LazyTensor(
            lambda source=source, scales=scales: ir.tensor(_steps(_blocks(source, bits), scales, bits)),  # type: ignore[misc]
            dtype=ir.DataType.UINT8,
            shape=ir.Shape((*scales.shape[:2], size)),
        )
        product = make_node(
            "MatMulNBits",
            [
                activation,
                add_initializer(graph, f"{weight.name}.int{bits}", steps),
                add_initializer(graph, f"{weight.name}.scale", ir.tensor(scales[..., 0])),
            ],
            f"{node.outputs[0].name}.product",
            ir.DataType.FLOAT,
            node.outputs[0].shape,
            {"K": read, "N": made, "bits": bits, "block_size": BLOCK[bits], "accuracy_level": INTEGER_PRODUCTS},
            domain=CONTRIB,
            path=path_of(node),
            like=[node],
        )
        graph.insert_before(node, product)
        take_over(node.outputs[0], product.outputs[0])
    if TABLE in graph.initializers:
        _quantise_table(graph, graph.initializers[TABLE])
    drop_dead(model)
    model.opset_imports[CONTRIB] = 1
    return len(layers)


def _blocks(source: ir.TensorProtocol, bits: int) -> Floats:
    """A weight (in, out) in blocks along its input, the last one filled with zeros: (out, blocks, block)."""
    weight = source.numpy().astype(np.float32, copy=False).T
    count = -(-weight.shape[1] // BLOCK[bits])
    padded = np.zeros((len(weight), count * BLOCK[bits]), dtype=np.float32)
    padded[:, : weight.shape[1]] = weight
    return padded.reshape(len(weight), count, BLOCK[bits])


def _block_scales(blocks: Floats, bits: int) -> Floats:
    """The size of a step in each block, of the share with the least squared error: (out, blocks, 1)."""
    # the value of the largest magnitude takes the end of the range that has one step more
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    whole = np.where(largest == 0, 1, -largest / (1 << (bits - 1))).astype(np.float32)
    best, least = whole, np.full(whole.shape, np.inf, dtype=np.float32)
    for share in SHARES[bits]:
        scales = whole * np.float32(share)
        error = np.square(scales * _rounded(blocks, scales, bits) - blocks).sum(axis=-1, keepdims=True)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def _rounded(blocks: Floats, scales: Floats, bits: int) -> Floats:
    middle = 1 << (bits - 1)
    return np.clip(np.rint(blocks / scales), -middle, middle - 1)


def _steps(blocks: Floats, scales: Floats, bits: int) -> npt.NDArray[np.uint8]:
    """uint8 (out, blocks, bytes of a block), two 4-bit steps to a byte, the first in the low half."""
    steps: npt.NDArray[np.uint8] = (_rounded(blocks, scales, bits) + (1 << (bits - 1))).astype(np.uint8)
    if bits == 8:
        return steps
    return (steps[..., 0::2] + 16 * steps[..., 1::2]).astype(np.uint8)


def _quantise_table(graph: ir.Graph, table: ir.Value) -> None:
    """The token table as integers and one step per row; the rows that are looked up are turned back."""
    source = table.const_value
    assert source is not None
    scales = np.maximum(np.abs(source.numpy()).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    integers = ir.LazyTensor(
        lambda: ir.tensor(np.rint(source.numpy() / scales).astype(np.int8)),
        dtype=ir.DataType.INT8,
        shape=ir.Shape(source.shape.numpy()),
    )
    (lookup,) = [user for user, _ in table.uses()]
    ids, found = lookup.inputs[1], lookup.outputs[0]
    rows = [add_initializer(graph, f"{TABLE}.int8", integers), add_initializer(graph, f"{TABLE}.scale", ir.tensor(scales))]
    steps = make_node("Gather", [rows[0], ids], f"{TABLE}.steps", ir.DataType.INT8, found.shape)
    scale = make_node("Gather", [rows[1], ids], f"{TABLE}.step", ir.DataType.FLOAT)
    real = make_node("Cast", steps.outputs, f"{TABLE}.real", ir.DataType.FLOAT, found.shape, {"to": int(ir.DataType.FLOAT)})
    row = make_node("Mul", [real.outputs[0], scale.outputs[0]], f"{TABLE}.row", ir.DataType.FLOAT, found.shape)
    graph.insert_before(lookup, [steps, scale, real, row])
    take_over(found, row.outputs[0])
