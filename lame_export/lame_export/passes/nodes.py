"""Nodes, constants and dead code: what the passes that rewrite a graph have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

CONTRIB = "com.microsoft"
"""ONNX Runtime's own operators."""


def make_node(
    op: str,
    inputs: Sequence[ir.Value | None],
    output: str,
    dtype: ir.DataType | None = None,
    shape: ir.Shape | None = None,
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    path: str | None = None,
    like: Sequence[ir.Node] = (),
) -> ir.Node:
    """A node with one output.

    Args:
        op: operator.
        inputs: its inputs.
        output: name of its output.
        dtype: of the output.
        shape: of the output.
        attributes: Python values.
        domain: of the operator.
        path: of the module it belongs to; None takes the output's name.
        like: nodes in whose place it stands, and whose metadata it takes.
    """
    value = ir.Value(name=output, shape=shape, type=None if dtype is None else ir.TensorType(dtype))
    metadata = {key: each for node in like for key, each in node.metadata_props.items()}
    name = f"{path or output}/{op}"
    return ir.node(op, inputs, attributes, domain=domain, outputs=[value], name=name, metadata_props=metadata)


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Registers a constant under `name` and returns its value."""
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, name: str, value: npt.ArrayLike) -> ir.Value:
    """The small constant of that name, registered when it is first asked for."""
    return graph.initializers.get(name) or add_initializer(graph, name, ir.tensor(np.asarray(value), name=name))


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Puts a value, under the old one's name, where the old one is read: calibration and bisection know values by name."""
    new.name, old.name = old.name, f"{old.name}.apart"
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Removes constants no node reads any more."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def drop_dead(model: ir.Model) -> None:
    """Removes nodes and constants nothing reads any more."""
    RemoveUnusedNodesPass()(model)


def width_of(value: ir.Value) -> int:
    """The last dimension, which is fixed."""
    assert value.shape is not None
    width = value.shape[-1]
    assert isinstance(width, int)
    return width
