"""Smoothing: moves outliers from activations into weights, while the graph computes the same.

SmoothQuant (arXiv 2211.10438). Channel j of an activation reaches a_j, and row j of the weights
that read it reaches w_j. The activation is divided by s_j = a_j^strength / w_j^(1 - strength), and
the rows are multiplied by it. Here s_j is taken as a multiple of its median and never below 1.

The division is folded into constants of whatever computes the activation, so it costs nothing:

    readers                          maker    what is divided
    q, k, v; gate, up; qkv; fc1      a norm   its weight, and its bias if it has one
    down                             up       its columns, and its bias if it has one
    o                                v        its columns, and its bias if it has one

    before   norm(weight)       ─ activation     ─ MatMul(W)
    after    norm(weight · 1/s) ─ activation / s ─ MatMul(s · W)

Layers after a GELU or a merge of patches have no such maker and stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from lame_runtime.contract.batch import Floats

from lame_export.rewrites.nodes import add_initializer, drop_unused_initializers, width_of
from lame_export.rewrites.scopes import SCALED, module_of, path_of, weight_products

Doubles = npt.NDArray[np.float64]
NORMS = frozenset({"RMSNorm", "LayerNorm"})
MAKERS = {"down": "up", "o": "v"}
"""Maps a layer to the one whose output channels it reads.

`down` reads act(gate) · up, and `o` a weighted mean of rows of v: a factor per channel passes
through both unchanged.
"""
LARGEST_FACTOR = 1e4
"""No channel is divided by more than this."""


@dataclass(frozen=True)
class Group:
    """Linear layers that read one activation, and the nodes whose constants scale it."""

    readers: list[ir.Node]
    maker: list[ir.Node]
    """The last node of a norm, or the MatMul of a linear layer and the Add of its bias."""


def smooth(model: ir.Model, channels: Mapping[str, Floats], strength: float) -> int:
    """Smooths a graph in place.

    Requires: an FP32 graph that went through `keep_scopes`, not yet fused.
    Changes: weights of norms and of linear layers; the intermediate values between them are divided
    by a factor per channel, and their last node is marked with `SCALED`.
    Leaves alone: nodes and their order, names of values, what the graph as a whole computes.

    Args:
        model: the graph.
        channels: largest absolute value of every channel, by name of the activation; see
            `calibration.scan`.
        strength: 0 leaves the graph alone, 1 makes all channels of an activation reach equally far.

    Returns:
        The number of activations that were smoothed.
    """
    if not strength:
        return 0
    groups = _groups(model.graph)
    for group in groups:
        _smooth_group(model.graph, group, channels, strength)
    drop_unused_initializers(model.graph)
    return len(groups)


def _smooth_group(
    graph: ir.Graph, group: Group, channels: Mapping[str, Floats], strength: float
) -> None:
    # in float64: powers of small numbers are multiplied, and rounded to FP32 once at the end
    reached = channels[_activation(group.readers[0]).name or ""].astype(np.float64)
    largest_weights = [np.abs(_weight(node).numpy()).max(axis=1) for node in group.readers]
    rows = np.max(largest_weights, axis=0).astype(np.float64)
    width = len(reached)
    maker_width = width_of(group.maker[-1].outputs[0])
    if maker_width != width:
        # `o` reads one head per query, `v` makes one per key/value group: the query heads that a
        # key/value head serves share its factors
        reached = _shared(reached, maker_width, group)
        rows = _shared(rows, maker_width, group)
    factors = _factors(reached, rows, strength)
    _divide(graph, group.maker, factors)
    for node in group.readers:
        # a weight is (in, out), and its rows belong to the activation's channels
        _multiply_constant(graph, node, 1, _repeated(factors, width, group)[:, None])


def _factors(reached: Doubles, rows: Doubles, strength: float) -> Floats:
    """Computes the factor by which each channel is divided.

    Args:
        reached: largest absolute value of each channel, (C,).
        rows: largest absolute weight that reads it, (C,).
        strength: as in `smooth`.
    """
    factors = np.ones(len(reached))
    # a channel that calibration never used, or that no weight reads, has no ratio
    usable = (reached > 0) & (rows > 0)
    if usable.any():
        factors[usable] = reached[usable] ** strength / rows[usable] ** (1 - strength)
        # a multiple of the median, and at least 1: channels that stand out are brought down, and
        # small ones left alone. To raise what calibration inputs hardly used would let an input
        # that does use it leave the range (seen: cosine .989 in place of .9997 on text unlike the
        # calibration texts)
        relative = factors[usable] / np.median(factors[usable])
        factors[usable] = np.clip(relative, 1, LARGEST_FACTOR)
    return factors.astype(np.float32)


def _groups(graph: ir.Graph) -> list[Group]:
    """Finds all activations that have a maker, those made by linear layers first."""
    layers = {path_of(node): node for node in weight_products(graph)}
    last = {path_of(node): node for node in graph}
    groups: list[Group] = []
    readers_of: dict[ir.Node, list[ir.Node]] = defaultdict(list)
    for path, node in layers.items():
        stem, _, name = path.rpartition(".")
        maker_path = f"{stem}.{MAKERS.get(name, '')}"
        if maker_path in layers:
            product, addition = layers[maker_path], last[maker_path]
            groups.append(Group([node], [product] if addition is product else [product, addition]))
            continue
        norm = _source(node)
        # a norm is several nodes, and only the last one gives its result
        if norm is not None and module_of(norm) in NORMS and last[path_of(norm)] is norm:
            readers_of[norm].append(node)
    for norm, readers in readers_of.items():
        # a reader that is no linear layer would see the divided values
        if _read_only_by(norm.outputs[0], set(readers)):
            groups.append(Group(readers, [norm]))
    return groups


def _source(layer: ir.Node) -> ir.Node | None:
    """Returns the node that computes what a layer reads, looking through rows taken from it."""
    source = _activation(layer).producer()
    # the last block's queries are computed from chosen rows of the norm's result
    while source is not None and source.op_type.startswith("Gather"):
        taken_from = source.inputs[0]
        if taken_from is None:
            break
        source = taken_from.producer()
    return source


def _read_only_by(value: ir.Value, readers: set[ir.Node]) -> bool:
    """Returns whether only `readers` read the numbers of `value`, or of rows taken from it."""
    users = [user for user, _ in value.uses()]
    gathers = [user for user in users if user.op_type.startswith("Gather")]
    # a Shape reads the dimensions and not the numbers
    others = {user for user in users if user.op_type not in ("Shape", "Gather", "GatherElements")}
    return others <= readers and all(_read_only_by(user.outputs[0], readers) for user in gathers)


def _divide(graph: ir.Graph, maker: list[ir.Node], factors: Floats) -> None:
    """Makes a norm or a linear layer give its result divided by `factors`."""
    inverse = np.float32(1) / factors
    for node in maker:
        if node.op_type == "LayerNormalization":
            for index in (1, 2):  # its weight and its bias
                _multiply_constant(graph, node, index, inverse)
            continue
        # the last Mul of an RMSNorm, a MatMul or the Add of a bias: one input is the constant
        first = node.inputs[0]
        index = 0 if first is not None and first.is_initializer() else 1
        _multiply_constant(graph, node, index, inverse)
    # the bisection compares this value with PyTorch's, which is not divided
    maker[-1].metadata_props[SCALED] = "channels"


def _multiply_constant(graph: ir.Graph, node: ir.Node, index: int, factors: Floats) -> None:
    """Multiplies a constant that a node reads, for this node alone; computed when it is read."""
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    source = value.const_value
    name = f"{node.name}.{index}"
    while name in graph.initializers:  # a constant may be multiplied as a maker's and as a reader's
        name += ".smoothed"
    scaled = ir.LazyTensor(
        lambda: ir.tensor((source.numpy() * factors).astype(np.float32)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(source.shape.numpy()),
        name=name,
    )
    node.replace_input_with(index, add_initializer(graph, name, scaled))


def _shared(values: Doubles, maker_width: int, group: Group) -> Doubles:
    """Takes the largest over the query heads that a key/value head serves: (H d) → (G d)."""
    repeats, head_width = _heads(len(values), maker_width, group)
    return values.reshape(-1, repeats, head_width).max(axis=1).reshape(-1)


def _repeated(factors: Floats, width: int, group: Group) -> Floats:
    """Repeats the factors of a key/value head for the query heads it serves: (G d) → (H d)."""
    if len(factors) == width:
        return factors
    repeats, head_width = _heads(width, len(factors), group)
    return np.repeat(factors.reshape(-1, 1, head_width), repeats, axis=1).reshape(-1)


def _heads(width: int, maker_width: int, group: Group) -> tuple[int, int]:
    """Returns query heads per key/value head, and channels per head."""
    # the width of a head stands in the graph only as the last dimension that v is reshaped to
    (reshape,) = [
        user for user, _ in group.maker[-1].outputs[0].uses() if user.op_type == "Reshape"
    ]
    return width // maker_width, width_of(reshape.outputs[0])


def _activation(layer: ir.Node) -> ir.Value:
    value = layer.inputs[0]
    assert value is not None
    return value


def _weight(layer: ir.Node) -> ir.TensorProtocol:
    value = layer.inputs[1]
    assert value is not None
    assert value.const_value is not None
    return value.const_value
