"""Weights in 8 or 4 bits, activations as they are: for CPUs that are short of memory.

Every linear layer becomes ONNX Runtime's `MatMulNBits`. The token table, which is a large part of a
small model, is kept in 8 bits with one scale per row:

    before   activation ─ MatMul(weight) ─ y
    after    activation ─ MatMulNBits(steps, scales) ─ y       one scale per block along the input

    before   ids ─ Gather(table) ─ rows
    after    ids ─┬ Gather(steps, INT8) ─ Cast(FP32) ─ Mul ─ rows
                  └ Gather(scales) ─────────────────────┘

Nothing is calibrated, and no result depends on batch mates. Smoothing is left out: it makes weights
harder to quantize, and here only weights are quantized.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from lame_runtime.contract.batch import Floats

from lame_export.rewrites.fuse_experts import quantize_experts
from lame_export.rewrites.nodes import (
    CONTRIB,
    add_initializer,
    drop_dead,
    make_node,
    new_value,
    take_over,
)
from lame_export.rewrites.scopes import linear_layers, path_of

BLOCK = {8: 128, 4: 32}
"""Weights along the input that share a scale, by bits: coarser steps want shorter blocks."""
SHARES = {8: (1.0,), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)}
"""Scales to try, as shares of the one that just holds a block's largest weight.

The one with the least squared error is taken: to cut the largest weight a little makes the steps of
all others finer, which pays in 4 bits.
"""
TABLE = "table_VD"
"""Name of the token table: an attribute of `SinglePassEncoder`."""
INTEGER_PRODUCTS = 4
"""`accuracy_level` of MatMulNBits: the kernel rounds activations to 8 bits, block by block.

This is the fast form; lower levels compute in floats.
"""


def quantize_weights(model: ir.Model, bits: int) -> int:
    """Quantizes the weights of every linear layer, and the token table, in place.

    Requires: an FP32 graph that went through `keep_scopes`, fused or not.
    Changes: the MatMuls of linear layers, fused experts, and the lookup of the token table.
    Leaves alone: biases, names of the values that layers read and give, and all other nodes.

    Args:
        model: the graph.
        bits: 8 or 4, of the linear layers' weights; the token table is always kept in 8 bits.

    Returns:
        The number of layers.
    """
    graph = model.graph
    layers = linear_layers(graph)
    for layer in layers:
        product = _product(graph, layer, bits)
        graph.insert_before(layer, product)
        take_over(layer.outputs[0], product.outputs[0])
    if TABLE in graph.initializers:  # the vision graph has none
        _quantize_table(graph, graph.initializers[TABLE])
    quantize_experts(graph, bits)
    drop_dead(model)
    model.opset_imports[CONTRIB] = 1
    return len(layers)


def _product(graph: ir.Graph, layer: ir.Node, bits: int) -> ir.Node:
    """Makes the MatMulNBits of a linear layer."""
    activation, weight = layer.inputs
    assert weight is not None
    assert weight.const_value is not None
    source = weight.const_value
    in_width, out_width = source.shape.numpy()
    # scales are computed at once, steps only when the file is written: the blocks take as much
    # memory as the weight in FP32, so they are made twice rather than kept
    scales = _block_scales(_blocks(source, bits), bits)
    steps = ir.LazyTensor(
        lambda: ir.tensor(_steps(_blocks(source, bits), scales, bits)),
        dtype=ir.DataType.UINT8,
        shape=ir.Shape((*scales.shape[:2], BLOCK[bits] * bits // 8)),
    )
    attributes = {
        "K": in_width,
        "N": out_width,
        "bits": bits,
        "block_size": BLOCK[bits],
        "accuracy_level": INTEGER_PRODUCTS,
    }
    output = layer.outputs[0]
    return make_node(
        "MatMulNBits",
        [
            activation,
            add_initializer(graph, f"{weight.name}.int{bits}", steps),
            add_initializer(graph, f"{weight.name}.scale", ir.tensor(scales[..., 0])),
        ],
        new_value(f"{output.name}.product", ir.DataType.FLOAT, output.shape),
        attributes,
        domain=CONTRIB,
        path=path_of(layer),
        replaces=[layer],
    )


def _blocks(source: ir.TensorProtocol, bits: int) -> Floats:
    """Cuts a weight (in, out) into blocks along its input: float32 (out, blocks, block).

    The last block is filled with zeros.
    """
    # the operator takes weights (out, in), the opposite of MatMul
    weight = source.numpy().astype(np.float32, copy=False).T
    # the attribute K tells the operator where the input ends, so the padding multiplies nothing
    count = -(-weight.shape[1] // BLOCK[bits])
    padded = np.zeros((len(weight), count * BLOCK[bits]), dtype=np.float32)
    padded[:, : weight.shape[1]] = weight
    return padded.reshape(len(weight), count, BLOCK[bits])


def _block_scales(blocks: Floats, bits: int) -> Floats:
    """Returns each block's scale with the least squared error: float32 (out, blocks, 1)."""
    # steps go from -2^(bits - 1) to 2^(bits - 1) - 1. The value of the largest magnitude takes the
    # end that has one step more, so a block whose largest value is positive has a negative scale
    place = np.abs(blocks).argmax(axis=-1)[..., None]
    largest = np.take_along_axis(blocks, place, axis=-1)
    # a block of zeros has no scale: with 1 its steps are zeros, too
    whole = np.where(largest == 0, 1, -largest / (1 << (bits - 1))).astype(np.float32)
    best, least_error = whole, np.full(whole.shape, np.inf, dtype=np.float32)
    for share in SHARES[bits]:
        scales = whole * np.float32(share)
        difference = scales * _rounded(blocks, scales, bits) - blocks
        error = np.square(difference).sum(axis=-1, keepdims=True)
        best = np.where(error < least_error, scales, best)
        least_error = np.minimum(error, least_error)
    return best


def _rounded(blocks: Floats, scales: Floats, bits: int) -> Floats:
    """Rounds blocks to signed steps of their scales, as floats."""
    middle = 1 << (bits - 1)
    return np.clip(np.rint(blocks / scales), -middle, middle - 1)


def _steps(blocks: Floats, scales: Floats, bits: int) -> npt.NDArray[np.uint8]:
    """Returns blocks in the bytes that MatMulNBits reads: uint8 (out, blocks, bytes of a block).

    Steps are unsigned, around a zero point of 2^(bits - 1), the operator's default. In 4 bits there
    are two to a byte, the first in the low half.
    """
    signed = _rounded(blocks, scales, bits)
    steps: npt.NDArray[np.uint8] = (signed + (1 << (bits - 1))).astype(np.uint8)
    if bits == 8:
        return steps
    return (steps[..., 0::2] + 16 * steps[..., 1::2]).astype(np.uint8)


def _quantize_table(graph: ir.Graph, table: ir.Value) -> None:
    """Stores the token table in INT8, one scale per row, and restores the rows that are read."""
    source = table.const_value
    assert source is not None
    largest = np.abs(source.numpy()).max(axis=1, keepdims=True)
    # a token's row may be all zeros, and must not divide by 0
    scales = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
    integers = ir.LazyTensor(
        lambda: ir.tensor(np.rint(source.numpy() / scales).astype(np.int8)),
        dtype=ir.DataType.INT8,
        shape=ir.Shape(source.shape.numpy()),
    )
    steps_VD = add_initializer(graph, f"{TABLE}.int8", integers)
    scales_V1 = add_initializer(graph, f"{TABLE}.scale", ir.tensor(scales))
    # rounded steps stay within ±127 without a clip, since the scale holds the row's largest value
    (lookup,) = [user for user, _ in table.uses()]
    ids, rows = lookup.inputs[1], lookup.outputs[0]
    steps = make_node(
        "Gather", [steps_VD, ids], new_value(f"{TABLE}.steps", ir.DataType.INT8, rows.shape)
    )
    scale = make_node("Gather", [scales_V1, ids], new_value(f"{TABLE}.step", ir.DataType.FLOAT))
    real = make_node(
        "Cast",
        steps.outputs,
        new_value(f"{TABLE}.real", ir.DataType.FLOAT, rows.shape),
        {"to": int(ir.DataType.FLOAT)},
    )
    restored = make_node(
        "Mul",
        [real.outputs[0], scale.outputs[0]],
        new_value(f"{TABLE}.row", ir.DataType.FLOAT, rows.shape),
    )
    graph.insert_before(lookup, [steps, scale, real, restored])
    take_over(rows, restored.outputs[0])
