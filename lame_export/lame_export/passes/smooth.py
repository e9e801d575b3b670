"""Smoothing: moves what is hard to quantise from activations into weights, leaving what the graph computes as it was.

SmoothQuant (arXiv 2211.10438): where channel j of an activation reaches a_j and row j of the weights that read it w_j,
the activation is divided by s_j = a_j^strength / w_j^(1 - strength) and the rows are multiplied by it. Here s_j is taken
as a multiple of its median and never below 1. The division is folded into what makes the activation, so it costs
nothing: the weight of a norm for the layers that read it, the columns of `up` for `down`, those of `v` for `o`. Layers
behind a GELU or a merge of patches have no such place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lame_export.passes.int8 import linear_layers, path_of
from lame_export.passes.nodes import add_initializer, drop_unused_initializers, width_of
from lame_export.passes.scopes import SCALED, module_of

Floats = npt.NDArray[np.float32]
NORMS = frozenset({"RMSNorm", "LayerNorm"})
MAKERS = {"down": "up", "o": "v"}
"""A layer and the one beside it whose output channels it reads, but for a factor the smoothing passes through."""
WIDEST = 1e4
"""No channel is divided by more than this."""


@dataclass(frozen=True)
class Group:
    """Linear layers that read one activation, and what makes it."""

    readers: list[ir.Node]
    maker: list[ir.Node]
    """The last node of a norm, or the MatMul of a linear layer and the Add of its bias."""


def smooth(model: ir.Model, channels: Mapping[str, Floats], strength: float) -> int:
    """Smooths an FP32 graph in place.

    Args:
        model: a graph that went through `keep_scopes`.
        channels: the largest absolute value of every channel, by name of the activation; see `calibration.scan`.
        strength: 0 leaves the graph alone, 1 makes all channels of an activation equally large.

    Returns:
        How many activations were smoothed.
    """
    if not strength:
        return 0
    groups = _groups(model.graph)
    for group in groups:
        reached = channels[_read(group.readers[0]).name or ""].astype(np.float64)
        width = len(reached)
        rows = np.max([np.abs(_weight(node).numpy()).max(axis=1) for node in group.readers], axis=0).astype(np.float64)
        made = width_of(group.maker[-1].outputs[0])
        if made != width:  # key/value heads that each serve several query heads share their channels
            reached, rows = _shared(reached, made, group), _shared(rows, made, group)
        scale = _factors(reached, rows, strength)
        _divide(model.graph, group.maker, scale)
        for node in group.readers:
            _replace(model.graph, node, 1, _spread(scale, width, group)[:, None])
    drop_unused_initializers(model.graph)
    return len(groups)


def _factors(reached: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], strength: float) -> Floats:
    """What each channel is divided by: 1 for those below the median.

    Large channels are brought down and small ones left alone: to raise what calibration inputs hardly used would let
    an input that does use it leave the range (seen: cosine .989 in place of .9997 on text unlike the calibration texts).
    """
    factors = np.ones(len(reached))
    some = (reached > 0) & (rows > 0)
    if some.any():
        factors[some] = reached[some] ** strength / rows[some] ** (1 - strength)
        factors[some] = np.clip(factors[some] / np.median(factors[some]), 1, WIDEST)
    return factors.astype(np.float32)


def _groups(graph: ir.Graph) -> list[Group]:
    layers = {path_of(node): node for node in linear_layers(graph)}
    last = {path_of(node): node for node in graph}
    readers: dict[ir.Node, list[ir.Node]] = defaultdict(list)
    groups = []
    for path, node in layers.items():
        stem, _, name = path.rpartition(".")
        beside = f"{stem}.{MAKERS.get(name, '')}"
        if beside in layers:
            maker = [layers[beside]]
            groups.append(Group([node], maker if last[beside] is layers[beside] else [*maker, last[beside]]))
            continue
        source = _read(node).producer()
        while source is not None and source.op_type.startswith("Gather") and source.inputs[0] is not None:
            source = source.inputs[0].producer()  # the last block's queries are taken from chosen rows
        if source is not None and module_of(source) in NORMS and last[path_of(source)] is source:
            readers[source].append(node)
    return groups + [Group(nodes, [norm]) for norm, nodes in readers.items() if _all_read(norm.outputs[0], set(nodes))]


def _all_read(value: ir.Value, readers: set[ir.Node]) -> bool:
    """Whether nothing but these layers reads a norm's result, rows taken from it included."""
    users = [user for user, _ in value.uses()]
    gathers = [user for user in users if user.op_type.startswith("Gather")]
    rest = {user for user in users if user.op_type not in ("Shape", "Gather", "GatherElements")}
    return rest <= readers and all(_all_read(user.outputs[0], readers) for user in gathers)


def _divide(graph: ir.Graph, maker: list[ir.Node], scale: Floats) -> None:
    """Makes a norm or a linear layer give its result divided by `scale`."""
    inverse = np.float32(1) / scale
    for node in maker:
        if node.op_type == "LayerNormalization":
            for place in (1, 2):
                _replace(graph, node, place, inverse)
        else:  # the weight of an RMSNorm or a linear layer, or its bias
            _replace(graph, node, 0 if node.inputs[0] is not None and node.inputs[0].is_initializer() else 1, inverse)
    maker[-1].metadata_props[SCALED] = "channels"


def _replace(graph: ir.Graph, node: ir.Node, place: int, factor: Floats) -> None:
    """Multiplies a constant that a node reads, for this node alone; computed only when it is read."""
    value = node.inputs[place]
    assert value is not None
    assert value.const_value is not None
    source, name = value.const_value, f"{node.name}.{place}"
    while name in graph.initializers:
        name += ".smoothed"
    scaled = ir.LazyTensor(
        lambda: ir.tensor((source.numpy() * factor).astype(np.float32)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(source.shape.numpy()),
        name=name,
    )
    node.replace_input_with(place, add_initializer(graph, name, scaled))


def _shared(values: npt.NDArray[np.float64], made: int, group: Group) -> npt.NDArray[np.float64]:
    """The largest of each channel of a key/value head over the query heads it serves: (H d) → (G d)."""
    return values.reshape(-1, *_heads(len(values), made, group)).max(axis=1).reshape(-1)


def _spread(scale: Floats, width: int, group: Group) -> Floats:
    """The reverse: (G d) → (H d)."""
    if len(scale) == width:
        return scale
    repeats, head = _heads(width, len(scale), group)
    return np.repeat(scale.reshape(-1, 1, head), repeats, axis=1).reshape(-1)


def _heads(width: int, made: int, group: Group) -> tuple[int, int]:
    """Query heads per key/value head, and channels per head, which the attention's reshape holds."""
    (reshape,) = [user for user, _ in group.maker[-1].outputs[0].uses() if user.op_type == "Reshape"]
    return width // made, width_of(reshape.outputs[0])


def _read(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _weight(node: ir.Node) -> ir.TensorProtocol:
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None
    return value.const_value
