"""Fused operators for ONNX Runtime's CPU provider: one kernel in place of a dozen small nodes.

Rotary embedding, masking, softmax and transposes take a third of the time of an INT8 encoder if
they run one by one. Four patterns are replaced:

    causal attention of the language model     → RotaryEmbedding, GroupQueryAttention (ONNX Runtime)
    attention over whole pictures              → RotaryEmbedding, MultiHeadAttention (ONNX Runtime)
    a router and its experts                   → MoE (ONNX Runtime)
    an addition and the RMS norm that reads it → SkipSimplifiedLayerNormalization (ONNX Runtime)

The first two are in `fuse_attention`, the third in `fuse_experts`; each function draws its pattern.
Attention that has no fused form stays as it is: the windows of Qwen2.5-VL's tower, and the last
block of the language model, whose queries are rows taken from the others. The result is the same,
but the graph is for ONNX Runtime (1.23 and later) alone.
"""

from __future__ import annotations

import onnx_ir as ir

from lame_export.rewrites.fuse_attention import (
    fuse_causal_attentions,
    fuse_picture_attentions,
    half_tables,
)
from lame_export.rewrites.fuse_experts import fuse_experts
from lame_export.rewrites.nodes import CONTRIB, drop_dead, new_value, take_over
from lame_export.rewrites.scopes import module_of, modules_of

OPSET = 23
"""The first version of standard ONNX that has Attention and RotaryEmbedding."""


def fuse(model: ir.Model) -> dict[str, int]:
    """Replaces attention, rotary embedding, experts and RMS norms by fused operators, in place.

    Requires: an FP32 graph of `forward.trace` that went through `keep_scopes`, smoothed or not.
    Changes: the patterns above, the opset, and the imported domains.
    Leaves alone: linear layers other than experts', the names of the values they read and give
    (calibration knows ranges by these names), graph inputs and outputs.

    Returns:
        The number of operators added, by name; a RotaryEmbedding belongs to its attention.
    """
    graph = model.graph
    modules = modules_of(graph)
    tables = half_tables(graph, modules)
    counts = {
        "GroupQueryAttention": fuse_causal_attentions(graph, modules, tables),
        "MultiHeadAttention": fuse_picture_attentions(graph, modules, tables),
        "MoE": fuse_experts(graph, modules),
    }
    drop_dead(model)
    counts["SkipSimplifiedLayerNormalization"] = _fuse_norms(graph)
    drop_dead(model)
    # one version holds for all standard operators of a graph, those that were there before, too
    model.opset_imports[""] = OPSET
    model.opset_imports[CONTRIB] = 1
    return counts


def _fuse_norms(graph: ir.Graph) -> int:
    """Fuses every RMS norm that reads a sum; returns how many there are."""
    return sum(
        _fuse_norm(graph, path, nodes)
        for path, nodes in modules_of(graph).items()
        if module_of(nodes[0]) == "RMSNorm"
    )


def _fuse_norm(graph: ir.Graph, path: str, nodes: list[ir.Node]) -> bool:
    """Fuses one RMS norm with the sum it reads; returns False if it reads no such sum.

    before   a ─ Add ─ sum ─┬ Mul ─ ReduceMean ─ Add(ε) ─ Sqrt ─ Reciprocal ─ Mul ─ Mul(w) ─ normed
             b ───┘         └ the residual stream
    after    a ─ SkipSimplifiedLayerNormalization(w, ε) ─┬ normed
             b ───┘                                      └ sum, the residual stream
    """
    source, weight, last = nodes[0].inputs[0], nodes[-1].inputs[1], nodes[-1].outputs[0]
    assert source is not None
    total = source.producer()
    # an Affine's Add is its bias, of one dimension; the operator adds tensors of the same shape
    if total is None or total.op_type != "Add" or module_of(total) == "Affine":
        return False
    # ε, a constant in the graph, is an attribute of the operator
    (shift,) = [node for node in nodes if node.op_type == "Add"]
    epsilon = shift.inputs[1]
    assert epsilon is not None
    assert epsilon.const_value is not None
    normed = new_value(f"{path}.fused", ir.DataType.FLOAT, last.shape)
    added = new_value(f"{path}.sum", ir.DataType.FLOAT, source.shape)
    # outputs 1 and 2, mean and inverse deviation, are for training; an empty name leaves them out
    unused = [ir.Value(name=""), ir.Value(name="")]
    fused = ir.node(
        "SkipSimplifiedLayerNormalization",
        [*total.inputs, weight],
        {"epsilon": float(epsilon.const_value.numpy())},
        domain=CONTRIB,
        outputs=[normed, *unused, added],
        name=f"{path}/SkipSimplifiedLayerNormalization",
        metadata_props=dict(nodes[-1].metadata_props),
    )
    # in the sum's place, and so above every node that reads it
    graph.insert_after(total, fused)
    take_over(source, added)
    take_over(last, normed)
    return True
