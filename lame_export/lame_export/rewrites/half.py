"""FP16: types the FP32 graph for half precision, with FP32 islands where half would be wrong.

The file's own types are the precision (strongly typed TensorRT), so every node is given one. Norms,
rotary angles and the final normalization stay FP32, and so does every node that reads or writes a
value which came near half's limit of 65,504 in the amax scan: an FP32 island.

    before   x ─ MatMul(w) ─ RMSNorm ─ MatMul(v) ─ y
    after    x ─ Cast ─ MatMul(w.half) ─ Cast ─ RMSNorm ─ Cast ─ MatMul(v.half) ─ Cast ─ y
                   └──── half ────┘       └──── FP32 ─────┘  └──── half ────┘
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lame_export.rewrites.nodes import add_initializer, drop_unused_initializers
from lame_export.rewrites.scopes import module_of

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT
FLOATS = frozenset({FULL, HALF})
FP32_MODULES = frozenset(
    {"RMSNorm", "LayerNorm", "Rotary", "Angles", "Interpolation", "UnitNorm", "Router"}
)
"""Modules of `lame_export.forward` whose arithmetic loses too much in half."""
LIMIT = 65504 / 4
"""Largest absolute value on the calibration inputs that may still be half.

A quarter of half's largest finite value: other inputs may reach further than those calibrated on.
"""


@dataclass(frozen=True)
class Island:
    """A node that the scan, not its module, keeps in FP32."""

    node: str
    value: str
    """The input or output that came near half's limit."""
    amax: float
    """The largest absolute value it reached."""


Casts = dict[tuple[ir.Value, ir.DataType], ir.Value]
"""Copies of values in another float type, by value and type: one Cast serves all readers."""


def type_fp16(model: ir.Model, amax: dict[str, float], limit: float = LIMIT) -> list[Island]:
    """Types an FP32 graph for half precision, in place.

    Requires: an FP32 graph that went through `keep_scopes`.
    Changes: types of float values; weights that half nodes read, to half copies made lazily; adds a
    Cast where the type changes between two nodes.
    Leaves alone: names and types of graph inputs and outputs, integer and bool values, the order of
    the nodes that were there.

    Args:
        model: the graph.
        amax: largest absolute value seen, by name of a value; see `calibration.scan`. A missing
            value counts as 0.
        limit: absolute value above which a value makes the nodes around it FP32.

    Returns:
        The islands made by the scan.
    """
    graph = model.graph
    islands: list[Island] = []
    precision: dict[ir.Node, ir.DataType] = {}
    # all nodes are judged before any is changed: the judgment reads the FP32 graph's types
    for node in graph:
        precision[node] = FULL
        if _may_be_half(node):
            island = _island(node, amax, limit)
            if island is None:
                precision[node] = HALF
            else:
                islands.append(island)
    casts: Casts = {}
    for node, dtype in precision.items():
        _convert_inputs(graph, node, dtype, casts)
        if dtype == HALF:
            _make_outputs_half(node)
    _restore_output_types(graph)
    drop_unused_initializers(graph)
    return islands


def _float_outputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs if value.dtype == FULL]


def _may_be_half(node: ir.Node) -> bool:
    """Returns whether the node's module allows half precision, whatever values it meets."""
    # a node without a float output is a comparison or a shape: it reads FP32, and casting a half
    # input up loses nothing
    return bool(_float_outputs(node)) and module_of(node) not in FP32_MODULES


def _island(node: ir.Node, amax: dict[str, float], limit: float) -> Island | None:
    """Returns the first of the node's float values that came near half's limit, or None."""
    # inputs, too: a node that only reads a large value would read it as infinity in half
    for value in (*node.inputs, *_float_outputs(node)):
        if value is None or value.dtype != FULL:
            continue
        name = value.name or ""
        if amax.get(name, 0.0) > limit:
            return Island(node.name or "", name, amax[name])
    return None


def _convert_inputs(graph: ir.Graph, node: ir.Node, dtype: ir.DataType, casts: Casts) -> None:
    """Makes all float inputs of the node `dtype`."""
    # Cast and Shape read any type, so that a cast in front of them would do nothing but cost time
    if node.op_type in ("Cast", "Shape"):
        return
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype not in FLOATS or value.dtype == dtype:
            continue
        # the cast comes after the node that computes the value, so all later readers can share it
        if (value, dtype) not in casts:
            casts[value, dtype] = _converted(graph, value, dtype, node)
        node.replace_input_with(index, casts[value, dtype])


def _make_outputs_half(node: ir.Node) -> None:
    for output in _float_outputs(node):
        output.dtype = HALF
    if node.op_type == "Cast":
        # the type that a Cast gives stands in its attribute, too, and must agree with the value's
        node.attributes["to"] = ir.AttrInt64("to", int(HALF))


def _restore_output_types(graph: ir.Graph) -> None:
    """Casts graph outputs that became half back to FP32, under their own names."""
    for index, output in enumerate(graph.outputs):
        if output.dtype != HALF:
            continue
        producer = output.producer()
        assert producer is not None
        # the runtime finds outputs by name: the FP32 value takes it over
        name, output.name = output.name, f"{output.name}.half"
        graph.outputs[index] = insert_cast(graph, output, FULL, producer, name)


def _converted(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
    """Returns a copy of `value` in another float type: a stored one of a constant, else a Cast."""
    if value.is_initializer():
        # stored in half rather than cast in the graph: half the file, and no node
        return half_initializer(graph, value) if dtype == HALF else value
    name = f"{value.name}.{dtype.name.lower()}"
    producer = value.producer()
    if producer is None:  # a graph input
        return insert_cast(graph, value, dtype, reader, name, above=True)
    return insert_cast(graph, value, dtype, producer, name)


def insert_cast(
    graph: ir.Graph,
    value: ir.Value,
    dtype: ir.DataType,
    neighbor: ir.Node,
    name: str | None,
    *,
    above: bool = False,
) -> ir.Value:
    """Adds `Cast(value)` right after (or before) the node `neighbor`; returns the cast value."""
    cast = ir.Node(
        "",
        "Cast",
        [value],
        [ir.AttrInt64("to", int(dtype))],
        num_outputs=1,
        name=f"{value.name}/Cast_{dtype.name.lower()}",
    )
    # shape and type are written down, since nothing infers them again before the file is saved
    output = cast.outputs[0]
    output.name, output.dtype, output.shape = name, dtype, value.shape
    insert = graph.insert_before if above else graph.insert_after
    insert(neighbor, cast)
    return output


def half_initializer(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Registers a half copy of an FP32 constant, converted only when the file is written."""
    source = value.const_value
    assert source is not None
    # a weight of the checkpoint (`forward.trace.StoredTensor`) gives its half form without an FP32
    # copy in between; the tracer's own constants have no such method
    as_half = getattr(source, "as_half", None)

    def converted() -> ir.TensorProtocol:
        return ir.tensor(source.numpy().astype(np.float16) if as_half is None else as_half())

    name = f"{value.name}.half"
    tensor = ir.LazyTensor(converted, dtype=HALF, shape=ir.Shape(source.shape.numpy()), name=name)
    return add_initializer(graph, name, tensor)
