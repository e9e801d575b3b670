"""Fused operators for ONNX Runtime's CPU provider: one kernel where the portable graph has a dozen small nodes.

Rotary embedding, masking, softmax and transposes take a third of the time of an INT8 encoder when they run one by one.
Attention becomes `Attention` (opset 23) or ONNX Runtime's `MultiHeadAttention`, rotary embedding one `RotaryEmbedding`
whose tables are made in the graph, so that M-RoPE needs nothing special, and an addition with the RMS norm behind it one
`SkipSimplifiedLayerNormalization`. What has no fused form (windows of Qwen2.5-VL's tower, the rows taken in the last
block) stays as it is. The graph computes what it did, and is for ONNX Runtime alone. Its `GroupQueryAttention` is of no
use here: it turns the rows of a prompt by their places and does not read `position_ids` (1.31).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lame_export.passes.fp16 import add_initializer, drop_unused_initializers, type_like
from lame_export.passes.int8 import path_of
from lame_export.passes.scopes import module_of

OPSET = 23
CONTRIB = "com.microsoft"


def fuse(model: ir.Model) -> dict[str, int]:
    """Rewrites an FP32 graph in place; returns how many operators of each kind it put in.

    Args:
        model: a graph that went through `keep_scopes`.
    """
    graph = model.graph
    last = {path_of(node): node for node in graph}
    tables = _tables(graph)
    put = {"Attention": 0, "MultiHeadAttention": 0, "SkipSimplifiedLayerNormalization": 0}
    for path in [path for path in last if path.startswith("blocks.")]:
        stem, _, name = path.rpartition(".")
        if name == "o" and _reads_whole_rows(graph, f"{stem}.q"):
            _attention(graph, stem, last, tables)
            put["Attention"] += 1
        elif name == "proj" and any(user.op_type == "Reshape" for user, _ in last[f"{stem}.qkv"].outputs[0].uses()):
            _picture_attention(graph, stem, last, tables)
            put["MultiHeadAttention"] += 1
    _remove_dead(graph)
    norms: dict[str, list[ir.Node]] = defaultdict(list)
    for node in graph:
        if module_of(node) == "RMSNorm":
            norms[path_of(node)].append(node)
    for path, inside in norms.items():
        put["SkipSimplifiedLayerNormalization"] += _norm(graph, path, inside)
    _remove_dead(graph)
    model.opset_imports[""] = OPSET
    model.opset_imports[CONTRIB] = 1
    return put


def _tables(graph: ir.Graph) -> list[ir.Value]:
    """Cosines and sines of the rotary angles, for half of the channels: (…, d / 2)."""
    (both,) = [node for node in graph if path_of(node) == "angles" and node.op_type == "Concat"]
    half = both.inputs[0]
    tables = [_node(op, [half], f"angles.{op.lower()}.half", half) for op in ("Cos", "Sin")]
    graph.insert_after(both, tables)
    return [table.outputs[0] for table in tables]


def _reads_whole_rows(graph: ir.Graph, path: str) -> bool:
    """Whether a block's queries are all rows: those of the last block are taken from chosen ones."""
    (product,) = [node for node in graph if path_of(node) == path and node.op_type == "MatMul"]
    source = product.inputs[0]
    return source is not None and (producer := source.producer()) is not None and not producer.op_type.startswith("Gather")


def _attention(graph: ir.Graph, stem: str, last: dict[str, ir.Node], tables: list[ir.Value]) -> None:
    """The causal grouped-query attention of one block of the language model."""
    output = last[f"{stem}.o"] if last[f"{stem}.o"].op_type == "MatMul" else last[f"{stem}.o"].predecessors()[0]
    head = 2 * _width(tables[0])
    nodes, rows = [], []
    for name in ("q", "k", "v"):
        value = last.get(f"{stem}.{name}_norm", last[f"{stem}.{name}"]).outputs[0]
        flat = last[f"{stem}.{name}"].outputs[0]
        if f"{stem}.{name}_norm" in last:  # (B, L, H, d)
            nodes.append(_node("Reshape", [value, _constant(graph, "rows.flat", [0, 0, -1])], f"{stem}.{name}.flat", flat))
            value = nodes[-1].outputs[0]
        heads = _width(flat) // head
        if name != "v":
            turned = _node("RotaryEmbedding", [value, *tables], f"{stem}.{name}.turned", flat, {"num_heads": heads})
            nodes.append(turned)
            value = turned.outputs[0]
        rows.append((value, heads))
    attributes: dict[str, int | float] = {"q_num_heads": rows[0][1], "kv_num_heads": rows[1][1]}
    mask = _mask(graph, stem)
    attributes |= {} if mask is not None else {"is_causal": 1}
    inputs = [value for value, _ in rows] + ([mask] if mask is not None else [])
    nodes.append(_node("Attention", inputs, f"{stem}.attention", output.inputs[0], attributes))
    graph.insert_before(output, nodes)
    _take_over(output.inputs[0], nodes[-1].outputs[0])


def _mask(graph: ir.Graph, stem: str) -> ir.Value | None:
    """The mask of a block, where it is more than the causal triangle: one with a batch axis."""
    (where,) = [node for node in graph if path_of(node) == stem and node.op_type == "Where"]
    mask = where.inputs[0]
    assert mask is not None
    assert mask.shape is not None
    return mask if len(mask.shape) == 4 else None


def _picture_attention(graph: ir.Graph, stem: str, last: dict[str, ir.Node], tables: list[ir.Value]) -> None:
    """The attention of one block of the vision tower over whole pictures."""
    output = next(node for node in graph if path_of(node) == f"{stem}.proj" and node.op_type == "MatMul")
    packed = last[f"{stem}.qkv"].outputs[0]
    width, head = _width(packed) // 3, 2 * _width(tables[0])
    axis = ir.AttrInt64("axis", -1)
    split = ir.Node("", "Split", [packed], [axis, ir.AttrInt64("num_outputs", 3)], num_outputs=3, name=f"{stem}.parts/Split")
    for part, name in zip(split.outputs, "qkv", strict=True):
        part.name = f"{stem}.{name}.part"
        type_like(part, packed)
        part.shape = ir.Shape([*packed.shape[:-1], width]) if packed.shape is not None else None
    nodes, tower = [split], _picture_tables(graph, tables, packed)
    turned = []
    for part in split.outputs[:2]:
        nodes.append(_node("RotaryEmbedding", [part, *tower], f"{part.name}.turned", part, {"num_heads": width // head}))
        turned.append(nodes[-1].outputs[0])
    inputs = [*turned, split.outputs[2]]
    nodes.append(_node("MultiHeadAttention", inputs, f"{stem}.attention", output.inputs[0], {"num_heads": width // head}, CONTRIB))
    graph.insert_before(output, nodes)
    _take_over(output.inputs[0], nodes[-1].outputs[0])


def _picture_tables(graph: ir.Graph, tables: list[ir.Value], packed: ir.Value) -> list[ir.Value]:
    """The tables of one picture for all of them: (S, d / 2) → (N, S, d / 2)."""
    made = {value.name: value for node in graph for value in node.outputs}
    if "angles.cos.pictures" in made:
        return [made["angles.cos.pictures"], made["angles.sin.pictures"]]
    producer = packed.producer()
    assert producer is not None
    shape = _node("Shape", [packed], "pictures.shape")
    shape.attributes["end"] = ir.AttrInt64("end", 1)
    target = _node("Concat", [shape.outputs[0], _constant(graph, "pictures.rest", [1, 1])], "pictures.target")
    target.attributes["axis"] = ir.AttrInt64("axis", 0)
    wide = [
        _node("Expand", [table, target.outputs[0]], f"angles.{name}.pictures") for name, table in zip(("cos", "sin"), tables, strict=True)
    ]
    graph.insert_after(producer, [shape, target, *wide])
    return [each.outputs[0] for each in wide]


def _norm(graph: ir.Graph, path: str, inside: list[ir.Node]) -> bool:
    """One RMS norm, given its nodes, and the sum it reads; whether there is such a sum."""
    node = inside[-1]
    source, weight = inside[0].inputs[0], node.inputs[1]
    assert source is not None
    total = source.producer()
    if total is None or total.op_type != "Add" or module_of(total) == "Affine":
        return False
    (shift,) = [each for each in inside if each.op_type == "Add"]
    epsilon = shift.inputs[1]
    assert epsilon is not None
    assert epsilon.const_value is not None
    names = [f"{path}.fused", "", "", f"{path}.sum"]
    fused = ir.Node(
        CONTRIB,
        "SkipSimplifiedLayerNormalization",
        [total.inputs[0], total.inputs[1], weight],
        [ir.AttrFloat32("epsilon", float(epsilon.const_value.numpy()))],
        num_outputs=4,
        name=f"{path}/SkipSimplifiedLayerNormalization",
        metadata_props=dict(node.metadata_props),
    )
    for output, name, like in zip(fused.outputs, names, (node.outputs[0], None, None, source), strict=True):
        output.name = name
        if like is not None:
            type_like(output, like)
    graph.insert_after(total, fused)
    _take_over(source, fused.outputs[3])
    _take_over(node.outputs[0], fused.outputs[0])
    return True


def _take_over(old: ir.Value | None, new: ir.Value) -> None:
    """Puts a value, under the old one's name, where the old one is read: calibration knows activations by name."""
    assert old is not None
    new.name, old.name = old.name, f"{old.name}.apart"
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _remove_dead(graph: ir.Graph) -> None:
    """Removes nodes nothing reads any more, and their constants."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    drop_unused_initializers(graph)


def _width(value: ir.Value) -> int:
    assert value.shape is not None
    width = value.shape[-1]
    assert isinstance(width, int)
    return width


def _constant(graph: ir.Graph, name: str, value: list[int]) -> ir.Value:
    return graph.initializers.get(name) or add_initializer(graph, name, ir.tensor(np.asarray(value, dtype=np.int64), name=name))


def _node(
    op: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    like: ir.Value | None = None,
    attributes: dict[str, int | float] | None = None,
    domain: str = "",
) -> ir.Node:
    """A node with one output, typed like another value."""
    kept = [
        ir.AttrFloat32(key, value) if isinstance(value, float) else ir.AttrInt64(key, value) for key, value in (attributes or {}).items()
    ]
    node = ir.Node(domain, op, list(inputs), kept, num_outputs=1, name=f"{name}/{op}")
    node.outputs[0].name = name
    if like is not None:
        type_like(node.outputs[0], like)
    return node
