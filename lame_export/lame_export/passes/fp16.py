"""FP16: types the FP32 graph for half precision, with FP32 islands where half would be wrong.

The file's own types are the precision (strongly typed TensorRT), so each node is given one. Norms, rotary
angles and the final normalisation stay FP32; so does every node that reads or writes a value which came near
half's limit of 65,504 in the amax scan. Graph inputs and outputs keep their types.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lame_export.passes.nodes import add_initializer, drop_unused_initializers
from lame_export.passes.scopes import module_of

FP32_MODULES = frozenset({"RMSNorm", "LayerNorm", "Rotary", "Angles", "Interpolation", "UnitNorm"})
"""Modules of `lame_export.forward` whose arithmetic loses too much in half."""
LIMIT = 65504 / 4
"""A value that reached this on the calibration inputs is kept in FP32: a factor of four in hand."""
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


@dataclass(frozen=True)
class Island:
    """A node the scan keeps in FP32."""

    node: str
    value: str
    amax: float


def type_fp16(model: ir.Model, amax: dict[str, float], limit: float = LIMIT) -> list[Island]:
    """Types `model` in place.

    Args:
        model: an FP32 graph that went through `keep_scopes`.
        amax: largest absolute value seen per value name; see `calibration.scan`.
        limit: what counts as near half's limit.

    Returns:
        The islands that the scan, not the module list, made.
    """
    islands: list[Island] = []
    half = {node: _computes_in_half(node, amax, limit, islands) for node in model.graph}
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node, is_half in half.items():
        wanted = ir.DataType.FLOAT16 if is_half else ir.DataType.FLOAT
        if node.op_type not in ("Cast", "Shape"):  # both read any type
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in FLOATS and value.dtype != wanted:
                    key = (value, wanted)
                    if key not in casts:
                        casts[key] = _converted(model.graph, value, wanted, node)
                    node.replace_input_with(index, casts[key])
        if is_half:
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.dtype = ir.DataType.FLOAT16
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
    for index, output in enumerate(model.graph.outputs):
        if output.dtype == ir.DataType.FLOAT16:
            producer = output.producer()
            assert producer is not None
            name, output.name = output.name, f"{output.name}.half"
            wide = insert_cast(model.graph, output, ir.DataType.FLOAT, producer, name)
            model.graph.outputs[index] = wide
    drop_unused_initializers(model.graph)
    return islands


def _computes_in_half(node: ir.Node, amax: dict[str, float], limit: float, islands: list[Island]) -> bool:
    floats = [value for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    if not floats:
        # a comparison or a shape: reads FP32, so a half input is cast up, which loses nothing
        return False
    if module_of(node) in FP32_MODULES:
        return False
    for value in (*node.inputs, *floats):
        if value is not None and value.dtype == ir.DataType.FLOAT and amax.get(value.name or "", 0.0) > limit:
            islands.append(Island(node.name or "", value.name or "", amax[value.name or ""]))
            return False
    return True


def _converted(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
    """`value` in another float type: an initializer is stored so, anything else is cast where it is made."""
    if value.is_initializer():
        return half_initializer(graph, value) if dtype == ir.DataType.FLOAT16 else value
    producer = value.producer()
    return insert_cast(
        graph, value, dtype, producer if producer is not None else before, f"{value.name}.{dtype.name.lower()}", above=producer is None
    )


def insert_cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, at: ir.Node, name: str | None, *, above: bool = False) -> ir.Value:
    """Adds `Cast(value)` right behind (or above) node `at`; returns the cast value."""
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], num_outputs=1, name=f"{value.name}/Cast_{dtype.name.lower()}")
    cast.outputs[0].name = name
    cast.outputs[0].dtype = dtype
    cast.outputs[0].shape = value.shape
    (graph.insert_before if above else graph.insert_after)(at, cast)
    return cast.outputs[0]


def half_initializer(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A half copy of an FP32 initializer, converted only when the file is written."""
    source = value.const_value
    assert source is not None
    stored = getattr(source, "as_half", None)
    tensor = ir.LazyTensor(
        lambda: ir.tensor(source.numpy().astype(np.float16) if stored is None else stored()),
        dtype=ir.DataType.FLOAT16,
        shape=ir.Shape(source.shape.numpy()),
        name=f"{value.name}.half",
    )
    return add_initializer(graph, f"{value.name}.half", tensor)
