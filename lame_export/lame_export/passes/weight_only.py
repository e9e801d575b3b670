"""Weights in 8 or 4 bits, activations as they are: for CPUs where memory is what is short.

Every linear layer becomes ONNX Runtime's `MatMulNBits`: weights in blocks along the input, each with a step of its own.
The token table, which in a small model is a large part of it, is kept in 8 bits with one step per row. Nothing is calibrated, and no
result depends on batch mates. Smoothing is left out: it makes weights harder to quantise, and here they are all there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lame_export.passes.fp16 import add_initializer, drop_unused_initializers, type_like
from lame_export.passes.fused import CONTRIB
from lame_export.passes.int8 import linear_layers

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
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
        assert activation is not None
        assert weight is not None
        assert weight.const_value is not None
        blocks = _Blocks(weight.const_value, bits)
        steps = add_initializer(graph, f"{weight.name}.int{bits}", blocks.steps())
        scales = add_initializer(graph, f"{weight.name}.scale", blocks.scales())
        product = ir.Node(
            CONTRIB,
            "MatMulNBits",
            [activation, steps, scales],
            [
                ir.AttrInt64("K", blocks.read),
                ir.AttrInt64("N", blocks.made),
                ir.AttrInt64("bits", bits),
                ir.AttrInt64("block_size", BLOCK[bits]),
                ir.AttrInt64("accuracy_level", INTEGER_PRODUCTS),
            ],
            num_outputs=1,
            name=f"{(node.name or '').removesuffix('MatMul')}MatMulNBits",
            metadata_props=dict(node.metadata_props),
        )
        old, new = node.outputs[0], product.outputs[0]
        type_like(new, old)
        graph.insert_before(node, product)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name, old.name = old.name, None
        graph.remove(node, safe=True)
    if TABLE in graph.initializers:
        _quantise_table(graph, graph.initializers[TABLE])
    drop_unused_initializers(graph)
    model.opset_imports[CONTRIB] = 1
    return len(layers)


@dataclass(frozen=True)
class _Blocks:
    """A weight (in, out) in blocks along its input, computed only when they are read."""

    source: ir.TensorProtocol
    bits: int

    @property
    def read(self) -> int:
        return int(self.source.shape.numpy()[0])

    @property
    def made(self) -> int:
        return int(self.source.shape.numpy()[1])

    @property
    def count(self) -> int:
        return -(-self.read // BLOCK[self.bits])

    def steps(self) -> ir.LazyTensor:
        """uint8 (out, blocks, bytes of a block), two 4-bit steps to a byte, the first in the low half."""
        size = BLOCK[self.bits] * self.bits // 8
        return ir.LazyTensor(
            lambda: ir.tensor(self._quantised()[0]), dtype=ir.DataType.UINT8, shape=ir.Shape((self.made, self.count, size))
        )

    def scales(self) -> ir.LazyTensor:
        """float32 (out, blocks)."""
        return ir.LazyTensor(lambda: ir.tensor(self._quantised()[1]), dtype=ir.DataType.FLOAT, shape=ir.Shape((self.made, self.count)))

    def _quantised(self) -> tuple[Bytes, Floats]:
        weight = self.source.numpy().astype(np.float32).T
        padded = np.zeros((self.made, self.count * BLOCK[self.bits]), dtype=np.float32)
        padded[:, : self.read] = weight
        blocks = padded.reshape(self.made, self.count, BLOCK[self.bits])
        middle = 1 << (self.bits - 1)
        # the value of the largest magnitude takes the end of the range that has one step more
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
        whole = np.where(largest == 0, 1, -largest / middle).astype(np.float32)
        best, least = whole, np.full(whole.shape, np.inf, dtype=np.float32)
        for share in SHARES[self.bits]:
            scales = whole * np.float32(share)
            error = np.square(scales * np.clip(np.rint(blocks / scales), -middle, middle - 1) - blocks).sum(axis=-1, keepdims=True)
            best, least = np.where(error < least, scales, best), np.minimum(error, least)
        steps = (np.clip(np.rint(blocks / best), -middle, middle - 1) + middle).astype(np.uint8)
        if self.bits == 4:
            steps = steps[..., 0::2] | (steps[..., 1::2] << 4)
        return steps, best[..., 0]


def _quantise_table(graph: ir.Graph, table: ir.Value) -> None:
    """The token table as integers and one step per row; the rows that are looked up are turned back."""
    source = table.const_value
    assert source is not None
    rows, width = (int(each) for each in source.shape.numpy())
    scales = np.maximum(np.abs(source.numpy()).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    integers = add_initializer(
        graph,
        f"{TABLE}.int8",
        ir.LazyTensor(
            lambda: ir.tensor(np.rint(source.numpy() / scales).astype(np.int8)), dtype=ir.DataType.INT8, shape=ir.Shape((rows, width))
        ),
    )
    per_row = add_initializer(graph, f"{TABLE}.scale", ir.tensor(scales))
    (lookup,) = [user for user, _ in table.uses()]
    old = lookup.outputs[0]
    steps = ir.Node("", "Gather", [integers, lookup.inputs[1]], num_outputs=1, name=f"{TABLE}.int8/Gather")
    step = ir.Node("", "Gather", [per_row, lookup.inputs[1]], num_outputs=1, name=f"{TABLE}.scale/Gather")
    real = ir.Node("", "Cast", steps.outputs, [ir.AttrInt64("to", int(ir.DataType.FLOAT))], num_outputs=1, name=f"{TABLE}.int8/Cast")
    row = ir.Node("", "Mul", [real.outputs[0], step.outputs[0]], num_outputs=1, name=f"{TABLE}.int8/Mul")
    for node, dtype in ((steps, ir.DataType.INT8), (step, ir.DataType.FLOAT), (real, ir.DataType.FLOAT), (row, ir.DataType.FLOAT)):
        node.outputs[0].dtype = dtype
    row.outputs[0].shape = old.shape
    graph.insert_before(lookup, [steps, step, real, row])
    old.replace_all_uses_with(row.outputs[0])
    row.outputs[0].name, old.name = old.name, None
    graph.remove(lookup, safe=True)
