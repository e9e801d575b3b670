"""Fused operators for ONNX Runtime's CPU provider: one kernel where the portable graph has a dozen small nodes.

Rotary embedding, masking, softmax and transposes take a third of the time of an INT8 encoder when they run one by one.
Attention becomes `Attention` (opset 23) or ONNX Runtime's `MultiHeadAttention`, rotary embedding one `RotaryEmbedding`
whose tables are made in the graph, so that M-RoPE needs nothing special, and an addition with the RMS norm behind it one
`SkipSimplifiedLayerNormalization`. What has no fused form (windows of Qwen2.5-VL's tower, the rows taken in the last
block) stays as it is. The graph computes what it did, and is for ONNX Runtime (1.23 and later) alone. Its
`GroupQueryAttention` is of no use here: it turns the rows of a prompt by their places and does not read `position_ids`
(1.31).
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from lame_export.passes.int8 import path_of
from lame_export.passes.nodes import CONTRIB, constant, drop_dead, make_node, take_over, width_of
from lame_export.passes.scopes import module_of

OPSET = 23
Modules = dict[str, list[ir.Node]]
"""The nodes of each module, by its path."""


def fuse(model: ir.Model) -> dict[str, int]:
    """Rewrites an FP32 graph in place; returns how many operators of each kind it put in.

    Args:
        model: a graph that went through `keep_scopes`.
    """
    graph = model.graph
    modules = _modules(graph)
    tables = _tables(graph, modules)
    put = {"Attention": 0, "MultiHeadAttention": 0, "SkipSimplifiedLayerNormalization": 0}
    towers: list[ir.Value] = []
    for path in [path for path in modules if path.startswith("blocks.")]:
        stem, _, name = path.rpartition(".")
        if name == "o" and not _read_by(modules[f"{stem}.q"]).op_type.startswith("Gather"):  # all rows, not those of the last block
            _attention(graph, stem, modules, tables)
            put["Attention"] += 1
        elif name == "proj" and any(user.op_type == "Reshape" for user, _ in _result(modules[f"{stem}.qkv"]).uses()):  # no windows
            towers = towers or _for_pictures(graph, tables, _result(modules[f"{stem}.qkv"]))
            _picture_attention(graph, stem, modules, towers)
            put["MultiHeadAttention"] += 1
    drop_dead(model)
    for path, nodes in _modules(graph).items():
        if module_of(nodes[0]) == "RMSNorm":
            put["SkipSimplifiedLayerNormalization"] += _norm(graph, path, nodes)
    drop_dead(model)
    model.opset_imports[""] = OPSET
    model.opset_imports[CONTRIB] = 1
    return put


def _modules(graph: ir.Graph) -> Modules:
    found: Modules = defaultdict(list)
    for node in graph:
        found[path_of(node)].append(node)
    return found


def _result(nodes: list[ir.Node]) -> ir.Value:
    """What a module gives."""
    return nodes[-1].outputs[0]


def _product(nodes: list[ir.Node]) -> ir.Node:
    """The MatMul of a linear layer."""
    return next(node for node in nodes if node.op_type == "MatMul")


def _read_by(nodes: list[ir.Node]) -> ir.Node:
    """What makes the activation a linear layer reads."""
    source = _product(nodes).inputs[0]
    assert source is not None
    producer = source.producer()
    assert producer is not None
    return producer


def _tables(graph: ir.Graph, modules: Modules) -> list[ir.Value]:
    """Cosines and sines of the rotary angles, for half of the channels: (…, d / 2)."""
    (both,) = [node for node in modules["angles"] if node.op_type == "Concat"]
    half = both.inputs[0]
    assert half is not None
    tables = [make_node(op, [half], f"angles.{op.lower()}.half", half.dtype, half.shape) for op in ("Cos", "Sin")]
    graph.insert_after(both, tables)
    return [table.outputs[0] for table in tables]


def _attention(graph: ir.Graph, stem: str, modules: Modules, tables: list[ir.Value]) -> None:
    """The causal grouped-query attention of one block of the language model."""
    output = _product(modules[f"{stem}.o"])
    head = 2 * width_of(tables[0])
    nodes, rows = [], []
    for name in ("q", "k", "v"):
        value = flat = _result(modules[f"{stem}.{name}"])
        if f"{stem}.{name}_norm" in modules:  # (B, L, H, d)
            inputs = [_result(modules[f"{stem}.{name}_norm"]), constant(graph, "rows.flat", np.array([0, 0, -1]))]
            nodes.append(make_node("Reshape", inputs, f"{stem}.{name}.flat", flat.dtype, flat.shape))
            value = nodes[-1].outputs[0]
        heads = width_of(flat) // head
        if name != "v":
            turned = f"{stem}.{name}.turned"
            nodes.append(make_node("RotaryEmbedding", [value, *tables], turned, flat.dtype, flat.shape, {"num_heads": heads}))
            value = nodes[-1].outputs[0]
        rows.append((value, heads))
    (where,) = [node for node in modules[stem] if node.op_type == "Where"]
    mask = where.inputs[0]
    assert mask is not None
    assert mask.shape is not None
    own = len(mask.shape) == 4  # more than the causal triangle, which has no batch axis
    attributes = {"q_num_heads": rows[0][1], "kv_num_heads": rows[1][1], "is_causal": int(not own)}
    inputs = [value for value, _ in rows] + ([mask] if own else [])
    _put(graph, output, nodes, make_node("Attention", inputs, f"{stem}.attention", attributes=attributes))


def _picture_attention(graph: ir.Graph, stem: str, modules: Modules, tables: list[ir.Value]) -> None:
    """The attention of one block of the vision tower over whole pictures."""
    output = _product(modules[f"{stem}.proj"])
    packed = _result(modules[f"{stem}.qkv"])
    width = width_of(packed) // 3
    heads = {"num_heads": width // (2 * width_of(tables[0]))}
    assert packed.shape is not None
    shape = ir.Shape([*packed.shape[:-1], width])
    parts = [ir.Value(name=f"{stem}.{name}.part", shape=shape, type=ir.TensorType(ir.DataType.FLOAT)) for name in "qkv"]
    nodes = [ir.node("Split", [packed], {"axis": -1, "num_outputs": 3}, outputs=parts, name=f"{stem}.parts/Split")]
    for part in parts[:2]:
        nodes.append(make_node("RotaryEmbedding", [part, *tables], f"{part.name}.turned", part.dtype, shape, heads))
    inputs = [nodes[1].outputs[0], nodes[2].outputs[0], parts[2]]
    _put(graph, output, nodes, make_node("MultiHeadAttention", inputs, f"{stem}.attention", attributes=heads, domain=CONTRIB))


def _put(graph: ir.Graph, output: ir.Node, nodes: list[ir.Node], attention: ir.Node) -> None:
    """Puts an attention in front of the output layer that reads it."""
    old, new = output.inputs[0], attention.outputs[0]
    assert old is not None
    new.shape, new.type = old.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(output, [*nodes, attention])
    take_over(old, new)


def _for_pictures(graph: ir.Graph, tables: list[ir.Value], packed: ir.Value) -> list[ir.Value]:
    """The tables of one picture for all of them: (S, d / 2) → (N, S, d / 2)."""
    producer = packed.producer()
    assert producer is not None
    count = make_node("Shape", [packed], "pictures.count", attributes={"end": 1})
    ones = constant(graph, "pictures.ones", np.array([1, 1]))
    target = make_node("Concat", [count.outputs[0], ones], "pictures.target", attributes={"axis": 0})
    wide = [make_node("Expand", [table, target.outputs[0]], f"{table.name}.pictures", table.dtype) for table in tables]
    for each, table in zip(wide, tables, strict=True):
        assert table.shape is not None
        assert packed.shape is not None
        each.outputs[0].shape = ir.Shape([packed.shape[0], *table.shape])
    graph.insert_after(producer, [count, target, *wide])
    return [each.outputs[0] for each in wide]


def _norm(graph: ir.Graph, path: str, nodes: list[ir.Node]) -> bool:
    """One RMS norm and the sum it reads; whether there is such a sum."""
    source, weight, last = nodes[0].inputs[0], nodes[-1].inputs[1], nodes[-1].outputs[0]
    assert source is not None
    total = source.producer()
    if total is None or total.op_type != "Add" or module_of(total) == "Affine":
        return False
    (shift,) = [node for node in nodes if node.op_type == "Add"]
    epsilon = shift.inputs[1]
    assert epsilon is not None
    assert epsilon.const_value is not None
    float32 = ir.TensorType(ir.DataType.FLOAT)
    normed = ir.Value(name=f"{path}.fused", shape=last.shape, type=float32)
    added = ir.Value(name=f"{path}.sum", shape=source.shape, type=ir.TensorType(ir.DataType.FLOAT))
    fused = ir.node(
        "SkipSimplifiedLayerNormalization",
        [*total.inputs, weight],
        {"epsilon": float(epsilon.const_value.numpy())},
        domain=CONTRIB,
        outputs=[normed, ir.Value(name=""), ir.Value(name=""), added],
        name=f"{path}/SkipSimplifiedLayerNormalization",
        metadata_props=dict(nodes[-1].metadata_props),
    )
    graph.insert_after(total, fused)
    take_over(source, added)
    take_over(last, normed)
    return True
