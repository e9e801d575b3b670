"""Experts as operators of ONNX Runtime's CPU provider, which compute only those that are taken.

`MoE` and its quantized form `QMoE` take the router's scores and sort tokens by expert themselves,
so that a token costs k experts and not all E. They compute what the wide MLP of `forward.experts`
computes: softmax over the scores, the k largest, divided by their sum. In `QMoE` weights are
integers with one scale per expert and output channel (8 bits), or per block along the input (4
bits); activations stay FP32, so that nothing is calibrated and no expert depends on the inputs that
calibration happened to route to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lame_export.rewrites.nodes import (
    CONTRIB,
    add_initializer,
    constant,
    make_node,
    new_value,
    take_over,
    width_of,
)
from lame_export.rewrites.scopes import Modules, module_of

Floats = npt.NDArray[np.float32]
MOE, QMOE = "MoE", "QMoE"
BLOCK = 32
"""Weights along the input that share a scale in 4 bits."""


def fuse_experts(graph: ir.Graph, modules: Modules) -> int:
    """Puts one `MoE` in place of every router and its experts; returns how many there are.

    before   x ─┬ router: MatMul ─ Softmax ─ TopK ─ … ─ Where ──┐
                └ gate, up: MatMul ─ Sigmoid ─ Mul ─ Mul ─ … ─ Mul ─ Where ─ down: MatMul ─ y
    after    x ─┬ router: MatMul ─ Reshape (tokens, E) ─┐
                └────────────────────────────────────── MoE(experts' weights, k) ─ y

    Experts with another activation than SiLU stay as they are.
    """
    count = 0
    for path, nodes in list(modules.items()):
        if module_of(nodes[0]) == "Experts" and _is_silu(nodes, modules[f"{path}.gate"]):
            _fuse(graph, path, modules)
            count += 1
    return count


def _is_silu(nodes: list[ir.Node], gate: list[ir.Node]) -> bool:
    """Returns whether the experts' activation is x · sigmoid(x), and no other sigmoid."""
    sigmoids = [node for node in nodes if node.op_type == "Sigmoid"]
    return len(sigmoids) == 1 and sigmoids[0].inputs[0] is gate[-1].outputs[0]


def _fuse(graph: ir.Graph, path: str, modules: Modules) -> None:
    router, last = modules[f"{path}.router"], modules[f"{path}.down"][-1]
    scores = next(node for node in router if node.op_type == "MatMul")
    top = next(node for node in router if node.op_type == "TopK")
    gate, up, down = (_weight(modules[f"{path}.{name}"][-1]) for name in ("gate", "up", "down"))
    experts, taken = width_of(scores.outputs[0]), width_of(top.outputs[0])
    width = gate.shape.numpy()[1] // experts
    hidden = gate.shape.numpy()[0]

    def first() -> Floats:
        # row by row, a gate and an up projection in turn
        pair = (tensor.numpy().reshape(hidden, experts, width) for tensor in (gate, up))
        return np.stack(list(pair), axis=-1).transpose(1, 2, 3, 0).reshape(experts, -1, hidden)

    def second() -> Floats:
        return down.numpy().reshape(experts, width, hidden).transpose(0, 2, 1)

    rows = make_node(
        "Reshape",
        [scores.outputs[0], constant(graph, "experts.rows", np.array([-1, experts]))],
        new_value(f"{path}.scores", ir.DataType.FLOAT),
        path=path,
    )
    old = last.outputs[0]
    fused = make_node(
        MOE,
        [
            scores.inputs[0],
            rows.outputs[0],
            _add(graph, f"{path}.first", first, (experts, 2 * width, hidden)),
            None,
            _add(graph, f"{path}.second", second, (experts, hidden, width)),
        ],
        new_value(f"{path}.mixed", ir.DataType.FLOAT, old.shape),
        {
            "k": taken,
            "normalize_routing_weights": 1,
            # with these, "swiglu" is act(gate) · up with SiLU: the defaults are those of another
            # family, which adds 1 to `up` and clips both
            "activation_type": "swiglu",
            "swiglu_fusion": 1,
            "activation_alpha": 1.0,
            "activation_beta": 0.0,
            "swiglu_limit": float(np.finfo(np.float32).max),
        },
        domain=CONTRIB,
        path=path,
        replaces=[last],
    )
    graph.insert_before(last, [rows, fused])
    take_over(old, fused.outputs[0])


def _weight(layer: ir.Node) -> ir.TensorProtocol:
    value = layer.inputs[1]
    assert value is not None
    assert value.const_value is not None
    return value.const_value


def _add(
    graph: ir.Graph, name: str, compute: Callable[[], Floats], shape: tuple[int, ...]
) -> ir.Value:
    """Registers experts' weights, computed only when they are read."""

    def tensor() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(compute(), dtype=np.float32))

    lazy = ir.LazyTensor(tensor, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)
    return add_initializer(graph, name, lazy)


def quantize_experts(graph: ir.Graph, bits: int) -> int:
    """Replaces every `MoE` by a `QMoE`, in place; returns how many there are.

    Args:
        graph: a graph that went through `fuse_experts`.
        bits: 8, or 4. Experts whose widths are no multiples of `BLOCK` get 8 in either case: with
            one scale per output channel 4 bits are too coarse.
    """
    nodes = [node for node in graph if node.op_type == MOE]
    for node in nodes:
        quantized = _quantized(graph, node, bits)
        graph.insert_before(node, quantized)
        take_over(node.outputs[0], quantized.outputs[0])
    return len(nodes)


def _quantized(graph: ir.Graph, node: ir.Node, bits: int) -> ir.Node:
    tokens, scores, first, _, second = node.inputs
    weights = [value for value in (first, second) if value is not None]
    in_blocks = bits == 4 and all(width_of(value) % BLOCK == 0 for value in weights)
    bits = bits if in_blocks else 8
    (first_steps, first_scales), (second_steps, second_scales) = (
        _steps(graph, value, bits) for value in weights
    )
    old = node.outputs[0]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    attributes |= {"expert_weight_bits": bits} | ({"block_size": BLOCK} if in_blocks else {})
    return make_node(
        QMOE,
        # between them the experts' biases, which they do not have
        [tokens, scores, first_steps, first_scales, None, second_steps, second_scales],
        new_value(f"{old.name}.quantized", ir.DataType.FLOAT, old.shape),
        attributes,
        domain=CONTRIB,
        path=(node.name or "").split("/")[0],
        replaces=[node],
    )


def _steps(graph: ir.Graph, weight: ir.Value, bits: int) -> tuple[ir.Value, ir.Value]:
    """Stores weights (E, out, in) as unsigned steps around 2^(bits - 1); returns steps and scales.

    Scales are (E, out), or (E, out, blocks) in 4 bits, where a byte holds two steps.
    """
    source = weight.const_value
    assert source is not None
    experts, rows, columns = source.shape.numpy()
    block = columns if bits == 8 else BLOCK
    blocks = (experts, rows, columns // block, block)
    largest = (1 << (bits - 1)) - 1

    def scales() -> Floats:
        size = np.abs(source.numpy().reshape(blocks)).max(axis=-1) / largest
        # an expert's channel of zeros must not divide by 0
        return np.maximum(size, np.finfo(np.float32).tiny).astype(np.float32)

    def steps() -> ir.TensorProtocol:
        signed = np.rint(source.numpy().reshape(blocks) / scales()[..., None])
        whole = (np.clip(signed, -largest, largest) + (largest + 1)).astype(np.uint8)
        flat = whole.reshape(experts, rows, columns)
        # the first step of a pair in the low half of its byte
        return ir.tensor(flat if bits == 8 else flat[..., 0::2] + 16 * flat[..., 1::2])

    shape = ir.Shape((experts, rows, columns * bits // 8))
    lazy = ir.LazyTensor(steps, dtype=ir.DataType.UINT8, shape=shape)
    scale = scales()[..., 0] if bits == 8 else scales()
    return (
        add_initializer(graph, f"{weight.name}.int{bits}", lazy),
        add_initializer(graph, f"{weight.name}.scale", ir.tensor(scale)),
    )
