"""Cuts a graph into pieces that run one after the other, so that few weights are held at a time.

Pieces follow the order of the nodes. Attention may be cut apart, into pieces of its own that run
over blocks of queries; see `attention_blocks`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import onnx_ir as ir

from lame_export.rewrites.nodes import drop_unused_initializers
from lame_export.streaming.attention_blocks import Attention, gather_attentions

BUDGET = 128 << 20
"""Bytes of weights in one piece; a single larger weight is a piece of its own."""


@dataclass(frozen=True)
class Piece:
    """Consecutive nodes of a graph as a model of their own."""

    model: ir.Model
    inputs: list[str]
    """Names of graph inputs and of results of earlier pieces."""
    outputs: list[str]
    """Names of graph outputs and of results that later pieces read."""
    by_query: list[str]
    """Names of the inputs with a row per query, if the piece is one attention; else empty."""


def copy_of(model: ir.Model) -> ir.Model:
    """Copies a model, so that rewriting the copy leaves the original alone; weights are shared."""
    copy = model.clone()  # not a deep copy: the weights' tensors are the same objects
    graph = copy.graph
    results = (output for node in graph for output in node.outputs)
    # `Model.clone` shares the types of values, which typing for half precision changes in place
    for value in (*graph.inputs, *graph.initializers.values(), *results):
        if value.dtype is not None:
            value.type = ir.TensorType(value.dtype)
    return copy


def cut(model: ir.Model, budget: int = BUDGET, *, attention_apart: bool = False) -> list[Piece]:
    """Cuts a graph into pieces whose weights stay within `budget` bytes each.

    Args:
        model: the graph.
        budget: bytes of weights in a piece.
        attention_apart: cut each attention apart, to be run over blocks of queries.
    """
    attentions: dict[int, Attention] = {}
    ends: set[int] = set()
    if attention_apart:
        model = copy_of(model)
        gathered = gather_attentions(model.graph)
        places = {node: index for index, node in enumerate(model.graph)}
        attentions = {places[attention.nodes[0]]: attention for attention in gathered}
        ends = {places[attention.nodes[-1]] + 1 for attention in gathered}
    sizes = _new_weight_bytes(model)
    # at least one node to a piece, however large its weight
    starts, held = [0], 0
    for index, size in enumerate(sizes):
        if (held and held + size > budget) or index in attentions or index in ends:
            starts.append(index)
            held = 0
        held += size
    bounds = [*dict.fromkeys(starts), len(sizes)]
    return [
        _piece(model, start, stop, attentions.get(start))
        for start, stop in itertools.pairwise(bounds)
    ]


def _new_weight_bytes(model: ir.Model) -> list[int]:
    """Returns, for each node, the bytes of the weights that it is the first to read."""
    # counted once, although a piece that reads a weight of an earlier one holds it, too: the large
    # ones, of linear layers and the token table, have a single reader
    sizes = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        weights = {value for value in node.inputs if value is not None and value.is_initializer()}
        tensors = [value.const_value for value in weights - seen]
        sizes.append(sum(tensor.nbytes for tensor in tensors if tensor is not None))
        seen |= weights
    return sizes


def _piece(model: ir.Model, start: int, stop: int, attention: Attention | None) -> Piece:
    """Makes a model of nodes `start` to `stop`; weights are shared, not copied."""
    copy = copy_of(model)
    graph = copy.graph
    nodes = list(graph)
    inside = nodes[start:stop]
    outputs = _outputs(graph, inside, nodes[stop:])
    # no longer outputs of the model: a node whose result is one cannot be removed
    graph.outputs.clear()
    inputs = [_as_input(value, inside) for value in _inputs(inside)]
    # from the last to the first, so that no node is removed before those that read it
    for node in reversed([*nodes[:start], *nodes[stop:]]):
        graph.remove(node, safe=True)
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.outputs.extend(outputs)
    drop_unused_initializers(graph)
    return Piece(
        copy,
        [value.name or "" for value in inputs],
        [value.name or "" for value in outputs],
        [] if attention is None else attention.by_query(),
    )


def _outputs(graph: ir.Graph, inside: list[ir.Node], later: list[ir.Node]) -> list[ir.Value]:
    """Returns the values of a piece that later nodes read or that the graph returns."""
    read = {value for node in later for value in node.inputs if value is not None}
    read |= set(graph.outputs)
    return [value for node in inside for value in node.outputs if value in read]


def _inputs(inside: list[ir.Node]) -> list[ir.Value]:
    """Returns the values that a piece reads but does not compute, weights aside, in order."""
    computed = {value for node in inside for value in node.outputs}
    read = [value for node in inside for value in node.inputs if value is not None]
    return [
        value
        for value in dict.fromkeys(read)
        if value not in computed and not value.is_initializer()
    ]


def _as_input(value: ir.Value, inside: list[ir.Node]) -> ir.Value:
    """Returns `value` if it is a graph input, or a fresh one that the piece reads in its place."""
    if value.producer() is None:
        return value
    # `value` is the result of a node that leaves the copy, and would be left without a producer
    fresh = ir.Value(name=value.name, shape=value.shape, type=value.type)
    members = set(inside)
    for user, index in list(value.uses()):
        if user in members:
            user.replace_input_with(index, fresh)
    return fresh
