"""Attention and rotary embedding as the fused operators of ONNX Runtime's CPU provider; see `fuse`.

`GroupQueryAttention` and `MultiHeadAttention` never hold the scores of all queries, so that their
memory grows with the length of an input and not with its square. GroupQueryAttention could rotate
queries and keys as well, but by their place in the prompt, which is wrong for M-RoPE:
`RotaryEmbedding` in front of it takes the tables that the graph computes from `position_ids`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lame_export.rewrites.nodes import (
    CONTRIB,
    constant,
    make_node,
    new_value,
    take_over,
    value_like,
    width_of,
)
from lame_export.rewrites.scopes import Modules


def _result(nodes: list[ir.Node]) -> ir.Value:
    """Returns a module's output: that of its last node."""
    return nodes[-1].outputs[0]


def _matmul(layer: list[ir.Node]) -> ir.Node:
    """Returns the MatMul of a linear layer, whose other node, if any, adds the bias."""
    return next(node for node in layer if node.op_type == "MatMul")


def _activation(layer: list[ir.Node]) -> ir.Value:
    """Returns the activation that a linear layer reads."""
    activation = _matmul(layer).inputs[0]
    assert activation is not None
    return activation


def half_tables(graph: ir.Graph, modules: Modules) -> list[ir.Value]:
    """Adds cosines and sines of the rotary angles for half of the channels: (…, d / 2) each.

    before   half ─ Concat(half, half) ─ Cos, Sin       (…, d)
    after    half ─ Cos, Sin                            (…, d / 2), besides the ones above

    RotaryEmbedding takes tables of this width, since both halves of a head turn by the same angles.
    In the graph they follow from `position_ids`.
    """
    (concat,) = [node for node in modules["angles"] if node.op_type == "Concat"]
    half = concat.inputs[0]
    assert half is not None
    tables = [
        make_node(op, [half], value_like(half, f"angles.{op.lower()}.half"))
        for op in ("Cos", "Sin")
    ]
    graph.insert_after(concat, tables)
    return [table.outputs[0] for table in tables]


def _stems(modules: Modules, layer: str) -> list[str]:
    """Returns the paths of modules, in blocks, that have a layer of this name directly in them."""
    ending = f".{layer}"
    return [
        path.removesuffix(ending)
        for path in modules
        if path.startswith("blocks.") and path.endswith(ending)
    ]


def fuse_causal_attentions(graph: ir.Graph, modules: Modules, tables: list[ir.Value]) -> int:
    """Fuses the attention of every block that computes all rows; returns how many those are."""
    count = 0
    lengths: list[ir.Value] = []
    for stem in _stems(modules, "o"):
        producer = _activation(modules[f"{stem}.q"]).producer()
        assert producer is not None
        # the last block's queries are rows taken from the others; a causal mask assumes that query
        # i stands in row i
        if not producer.op_type.startswith("Gather"):
            lengths = lengths or _add_lengths(graph)
            _fuse_causal_attention(graph, stem, modules, tables, lengths)
            count += 1
    return count


def _add_lengths(graph: ir.Graph) -> list[ir.Value]:
    """Adds what GroupQueryAttention reads besides q, k and v: last place and number of the keys.

    before   input_ids (B, L)
    after    input_ids ─ Shape ─┬ B ────────────────────────── Expand ─ int32 (B,), L - 1 each
                                └ L ─ Cast(int32) ─┬ Sub(1) ───┘
                                                   └ Squeeze ──────── int32 (), L

    Padding counts as keys: it is on the right, where the causal mask hides it.
    """
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    whole = ir.DataType.INT32
    batch = make_node("Shape", [ids], new_value("keys.batch"), {"start": 0, "end": 1})
    length = make_node("Shape", [ids], new_value("keys.length"), {"start": 1, "end": 2})
    count = make_node(
        "Cast", [length.outputs[0]], new_value("keys.count", whole), {"to": int(whole)}
    )
    one = constant(graph, "keys.one", np.array([1], np.int32))
    last = make_node("Sub", [count.outputs[0], one], new_value("keys.last", whole))
    rows = make_node("Expand", [last.outputs[0], batch.outputs[0]], new_value("keys.rows", whole))
    total = make_node("Squeeze", [count.outputs[0]], new_value("keys.total", whole))
    graph.insert_before(graph[0], [batch, length, count, last, rows, total])
    return [rows.outputs[0], total.outputs[0]]


def _fuse_causal_attention(
    graph: ir.Graph, stem: str, modules: Modules, tables: list[ir.Value], lengths: list[ir.Value]
) -> None:
    """Fuses the causal grouped-query attention of one block of the language model.

    before   q ─ Reshape ─ q_norm ─ Transpose ─ rotary, 6 nodes ─ Mul(1/√d) ───────────┐
             k ─ Reshape ─ k_norm ─ Transpose ─ rotary ─ repeat heads ─ Transpose ─ MatMul ─┐
             ┌────────────────────────────────────────── Softmax ─ Where(mask) ─────────────┘
             MatMul ─ Transpose ─ Reshape ─ o
             └ repeat heads ─ Transpose ─ Reshape ─ v

    after    q ─ q_norm ─ Reshape ─ RotaryEmbedding ─┐
             k ─ k_norm ─ Reshape ─ RotaryEmbedding ─ GroupQueryAttention ─ o
             v ──────────────────────────────────────┘

    Only Qwen3-VL has q_norm and k_norm, and the Reshape after them. The operator scales by 1/√d
    and repeats the key/value heads itself. It takes no mask of bools: where the causal one is not
    enough (`embed_attends="reason"`), the standard Attention does.
    """
    output = _matmul(modules[f"{stem}.o"])
    # the tables hold an angle per channel pair of a head
    head_width = 2 * width_of(tables[0])
    nodes: list[ir.Node] = []
    rows: list[ir.Value] = []
    heads: list[int] = []
    for name in ("q", "k", "v"):
        projected = _result(modules[f"{stem}.{name}"])
        heads.append(width_of(projected) // head_width)
        row = projected
        if f"{stem}.{name}_norm" in modules:
            nodes.append(_flattened(graph, stem, name, modules))
            row = nodes[-1].outputs[0]
        if name != "v":
            rotated = value_like(projected, f"{stem}.{name}.turned")
            nodes.append(_rotary(row, tables, rotated, heads[-1]))
            row = rotated
        rows.append(row)
    masks = _masks(modules[stem])
    result = _in_place_of(output, stem)
    if masks:
        heads_of = {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
        nodes.append(make_node("Attention", [*rows, *masks], result, heads_of))
    else:
        nodes.append(_group_query_attention(rows, lengths, result, heads))
    _put_before(graph, output, nodes)


def _group_query_attention(
    rows: list[ir.Value], lengths: list[ir.Value], result: ir.Value, heads: list[int]
) -> ir.Node:
    # ONNX Runtime picks the kernel that never holds all scores only if the node also returns keys
    # and values
    unread = [new_value(f"{result.name}.{name}") for name in ("keys", "values")]
    return ir.node(
        "GroupQueryAttention",
        [*rows, None, None, *lengths],
        {"num_heads": heads[0], "kv_num_heads": heads[1]},
        domain=CONTRIB,
        outputs=[result, *unread],
        name=f"{result.name}/GroupQueryAttention",
    )


def _flattened(graph: ir.Graph, stem: str, name: str, modules: Modules) -> ir.Node:
    """Makes a Reshape of a head norm's result, (B, L, H, d) → (B, L, H d), for Attention."""
    normed = _result(modules[f"{stem}.{name}_norm"])
    projected = _result(modules[f"{stem}.{name}"])
    # 0 copies a dimension, so that batch and length stay dynamic
    shape = constant(graph, "rows.flat", np.array([0, 0, -1]))
    return make_node("Reshape", [normed, shape], value_like(projected, f"{stem}.{name}.flat"))


def _masks(block: list[ir.Node]) -> list[ir.Value]:
    """Returns the mask that Attention must be given, if `is_causal` is not enough."""
    (masking,) = [node for node in block if node.op_type == "Where"]
    mask = masking.inputs[0]
    assert mask is not None
    assert mask.shape is not None
    # (L, L) is the plain causal triangle; (B, 1, L, L) hides more (`embed_attends="reason"`)
    return [mask] if len(mask.shape) == 4 else []


def fuse_picture_attentions(graph: ir.Graph, modules: Modules, tables: list[ir.Value]) -> int:
    """Fuses the attention of the vision tower's blocks over whole pictures; returns how many."""
    count = 0
    picture_tables: list[ir.Value] = []
    for stem in _stems(modules, "proj"):
        packed = _result(modules[f"{stem}.qkv"])
        # in a windowed block of Qwen2.5-VL rows are gathered into windows before the Reshape
        if not any(user.op_type == "Reshape" for user, _ in packed.uses()):
            continue
        if not picture_tables:
            picture_tables = _expanded_tables(graph, tables, packed)
        _fuse_picture_attention(graph, stem, modules, picture_tables)
        count += 1
    return count


def _fuse_picture_attention(
    graph: ir.Graph, stem: str, modules: Modules, tables: list[ir.Value]
) -> None:
    """Fuses the attention of one block of the vision tower over whole pictures.

    before   qkv ─ Reshape ─ Transpose ─┬ q ─ rotary, 6 nodes ─ Mul(1/√d) ─ MatMul ─ Softmax ┐
                                        ├ k ─ rotary ─ Transpose ───────────┘                │
                                        └ v ─────────────────────────────────────────────── MatMul
             proj ─ Reshape ─ Transpose ────────────────────────────────────────────────────┘

    after    qkv ─ Split ─┬ q ─ RotaryEmbedding ─┐
                          ├ k ─ RotaryEmbedding ─ MultiHeadAttention ─ proj
                          └ v ───────────────────┘
    """
    output = _matmul(modules[f"{stem}.proj"])
    packed = _result(modules[f"{stem}.qkv"])
    assert packed.shape is not None
    width = width_of(packed) // 3
    heads = width // (2 * width_of(tables[0]))
    shape = ir.Shape([*packed.shape[:-1], width])
    q, k, v = (new_value(f"{stem}.{name}.part", ir.DataType.FLOAT, shape) for name in "qkv")
    # a Split without a list of sizes needs `num_outputs` from opset 18 on
    split = ir.node(
        "Split",
        [packed],
        {"axis": -1, "num_outputs": 3},
        outputs=[q, k, v],
        name=f"{stem}.parts/Split",
    )
    turned = [
        _rotary(part, tables, value_like(part, f"{part.name}.turned"), heads) for part in (q, k)
    ]
    attention = make_node(
        "MultiHeadAttention",
        [*(node.outputs[0] for node in turned), v],
        _in_place_of(output, stem),
        attributes={"num_heads": heads},
        domain=CONTRIB,
    )
    _put_before(graph, output, [split, *turned, attention])


def _expanded_tables(graph: ir.Graph, tables: list[ir.Value], packed: ir.Value) -> list[ir.Value]:
    """Repeats the tables of one picture for all pictures: (S, d / 2) → (N, S, d / 2).

    All pictures of a run share one grid, but RotaryEmbedding takes tables with a batch axis only.

    before   table
    after    table ─ Expand(Concat(N, 1, 1))      N read from the shape of `packed`
    """
    producer = packed.producer()
    assert producer is not None
    assert packed.shape is not None
    count = make_node("Shape", [packed], new_value("pictures.count"), attributes={"end": 1})
    ones = constant(graph, "pictures.ones", np.array([1, 1]))
    target = make_node(
        "Concat", [count.outputs[0], ones], new_value("pictures.target"), attributes={"axis": 0}
    )
    expanded = []
    for table in tables:
        assert table.shape is not None
        shape = ir.Shape([packed.shape[0], *table.shape])
        value = new_value(f"{table.name}.pictures", table.dtype, shape)
        expanded.append(make_node("Expand", [table, target.outputs[0]], value))
    graph.insert_after(producer, [count, target, *expanded])
    return [node.outputs[0] for node in expanded]


def _rotary(value: ir.Value, tables: list[ir.Value], output: ir.Value, heads: int) -> ir.Node:
    """Makes the standard RotaryEmbedding of (B, L, H d) by tables that are already looked up."""
    # an input of three dimensions needs `num_heads`; without `position_ids`, row i of the input
    # takes row i of the tables
    return make_node("RotaryEmbedding", [value, *tables], output, {"num_heads": heads})


def _in_place_of(output: ir.Node, stem: str) -> ir.Value:
    """Makes an attention's result, with the type and shape of what the output layer reads now."""
    old = output.inputs[0]
    assert old is not None
    return value_like(old, f"{stem}.attention")


def _put_before(graph: ir.Graph, output: ir.Node, nodes: list[ir.Node]) -> None:
    """Inserts nodes above an output layer; the last one computes what that layer reads."""
    old = output.inputs[0]
    assert old is not None
    # right above its reader, all of q, k and v are computed; the old nodes are dropped as dead
    graph.insert_before(output, nodes)
    take_over(old, nodes[-1].outputs[0])
