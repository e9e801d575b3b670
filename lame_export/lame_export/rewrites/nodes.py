"""Makes nodes, values and constants, and removes dead ones: helpers of every graph rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own ("contributed") operators."""


def new_value(
    name: str, dtype: ir.DataType | None = None, shape: ir.Shape | None = None
) -> ir.Value:
    """Makes a value that no node computes yet; type and shape may stay unknown."""
    return ir.Value(name=name, shape=shape, type=None if dtype is None else ir.TensorType(dtype))


def value_like(value: ir.Value, name: str) -> ir.Value:
    """Makes a value with the type and shape of another one, under a name of its own."""
    return new_value(name, value.dtype, value.shape)


def make_node(
    op: str,
    inputs: Sequence[ir.Value | None],
    output: ir.Value,
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    path: str | None = None,
    replaces: Sequence[ir.Node] = (),
) -> ir.Node:
    """Makes a node with one output. It is not part of a graph yet.

    Args:
        op: the operator's name.
        inputs: its inputs; None leaves an optional one out.
        output: its output, from `new_value` or `value_like`.
        attributes: Python values by attribute name.
        domain: the operator's domain, `CONTRIB` or standard ONNX ("").
        path: path of the module that the node belongs to; None takes the output's name.
        replaces: nodes in whose place the new one stands. It takes over their metadata, so that
            later rewrites still know the module's class.
    """
    metadata: dict[str, str] = {}
    for node in replaces:
        metadata |= node.metadata_props
    # `scopes.path_of` reads the module's path from the name, up to the first "/"
    return ir.node(
        op,
        inputs,
        attributes,
        domain=domain,
        outputs=[output],
        name=f"{path or output.name}/{op}",
        metadata_props=metadata,
    )


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Registers `tensor` as a constant of the graph and returns its value."""
    # shape and type are not derived from the tensor, and rewrites read them from the value
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, name: str, value: npt.ArrayLike) -> ir.Value:
    """Returns the constant of this name, and registers `value` under it if there is none yet.

    For small constants that many nodes share; a name must always stand for the same number.
    """
    return graph.initializers.get(name) or add_initializer(
        graph, name, ir.tensor(np.asarray(value), name=name)
    )


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Makes every reader of `old` read `new` instead, and gives `new` the name of `old`.

    Graph outputs count as readers. `old` gets another name; `drop_dead` removes what computes it.
    """
    # calibration looks ranges up by value name, and the bisection compares the value of that name
    # with PyTorch's: the name must stay with the result, not with the node that computed it
    new.name, old.name = old.name, f"{old.name}.apart"
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Removes constants that no node reads."""
    # collected first: a mapping must not change while it is walked
    unused = [name for name, value in graph.initializers.items() if not value.uses()]
    for name in unused:
        del graph.initializers[name]


def drop_dead(model: ir.Model) -> None:
    """Removes nodes and constants that nothing reads."""
    RemoveUnusedNodesPass()(model)


def width_of(value: ir.Value) -> int:
    """Returns the last dimension of a value, which must be fixed."""
    assert value.shape is not None
    width = value.shape[-1]
    assert isinstance(width, int)
    return width
