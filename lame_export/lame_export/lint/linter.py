"""Lint: rules that a graph must satisfy before a plan is built from it, judged from the file alone.

A graph that goes beyond the operators and types of TensorRT 10.3 (`lint.tensorrt_operators`), the
version of JetPack 6, fails here rather than on a Jetson.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from lame_runtime.contract import Contract

from lame_export.lint.tensorrt_operators import TENSORRT_10_3, wrong_types
from lame_export.rewrites.nodes import CONTRIB
from lame_export.rewrites.scopes import MODULE

MAX_OPSET = 20
"""The newest opset that TensorRT 10.3 reads."""
CPU_OPSET = 23
"""Newest opset of graphs for CPUs: the first one with Attention and RotaryEmbedding."""

CPU_PRODUCTS = {
    "fp32-cpu": "MatMul",
    "int8-cpu": "MatMulIntegerToFloat",
    "w8-cpu": "MatMulNBits",
    "w4-cpu": "MatMulNBits",
}
"""The product of linear layers in each graph that is for CPUs and never meets TensorRT."""
STANDARD_ON_CPU = frozenset({"Attention", "RotaryEmbedding"})
"""Standard operators that those graphs may use in addition to TensorRT's."""
CONTRIBUTED = frozenset(
    {
        *(set(CPU_PRODUCTS.values()) - {"MatMul"}),
        "GroupQueryAttention",
        "MoE",
        "MultiHeadAttention",
        "QMoE",
        "QuantizeLinear",
        "SkipSimplifiedLayerNormalization",
    }
)
"""ONNX Runtime's own operators that those graphs may use."""
DATA_DEPENDENT = frozenset(
    {"NonZero", "Unique", "Compress", "NonMaxSuppression", "Loop", "If", "Scan"}
)
"""Operators whose output shapes depend on values: no optimization profile can bound those."""

Dims = dict[str, tuple[int | str | None, ...]]
"""Dimensions by name of an input or output: fixed, symbolic, or None for any size."""
ENCODER: tuple[Dims, Dims] = (
    {
        "input_ids": ("batch", "length"),
        "features": ("n_features", None),
        "feature_index": ("batch", "length"),
        "position_ids": (3, "batch", "length"),
        "embed_index": ("batch",),
    },
    {"sentence_embedding": ("batch", None)},
)
"""Inputs and outputs of the encoder that the runtime and the engine builder rely on."""


def vision_interface(contract: Contract) -> tuple[Dims, Dims]:
    """Returns inputs and outputs of the vision graph, whose tables depend on the model's family."""
    inputs: Dims = {
        "frames": ("pictures", "depth", "patches", None),
        "strip_index": ("patches", None),
        "patch_positions": (2, "patches"),
    }
    if contract.tower.window:
        inputs |= {
            "window_index": ("windows", None),
            "window_mask": ("windows", None),
            "window_place": ("patches",),
        }
    if contract.tower.position_side:
        inputs |= {"interpolation_index": (4, "patches"), "interpolation_weight": (4, "patches")}
    return inputs, {"features": ("pictures", None, None)}


def lint(path: Path, part: str, graph: str, contract: Contract) -> list[str]:
    """Checks one file against all rules.

    Args:
        path: the ONNX file.
        part: "vision" or "encoder".
        graph: its name, as in `plan.GRAPHS`.
        contract: for the tables that the vision graph takes.

    Returns:
        One line per finding, empty if the file is clean.
    """
    model = ir.load(path)
    on_cpu = graph in CPU_PRODUCTS
    interface = ENCODER if part == "encoder" else vision_interface(contract)
    # the rules of Q/DQ are TensorRT's: graphs for CPUs quantize activations around 128, by scales
    # that are computed while they run
    return [
        *_opset_findings(model, on_cpu),
        *_node_findings(model, on_cpu),
        *_interface_findings(model, part, interface),
        *([] if on_cpu else _quantization_findings(model)),
        *_promise_findings(model, graph),
    ]


def _opset_findings(model: ir.Model, on_cpu: bool) -> list[str]:
    # the domain "" is standard ONNX; ONNX Runtime's own has no versions that matter here
    opset = model.opset_imports.get("", 0)
    if opset <= (CPU_OPSET if on_cpu else MAX_OPSET):
        return []
    readable = f"TensorRT 10.3 reads up to {MAX_OPSET}, and graphs for CPUs have {CPU_OPSET}"
    return [f"opset {opset}: {readable}"]


def _node_findings(model: ir.Model, on_cpu: bool) -> list[str]:
    findings = []
    for node in model.graph:
        name = node.name or node.op_type
        findings += [f"{name}: {finding}" for finding in _operator_findings(node, on_cpu)]
        # stack traces and source files of the tracer; `keep_scopes` leaves only the module's class
        if any("/" in value for key, value in node.metadata_props.items() if key != MODULE):
            findings.append(f"{name}: carries paths of the exporting machine")
    return findings


def _operator_findings(node: ir.Node, on_cpu: bool) -> list[str]:
    """Checks that the backend knows the operator and takes its types."""
    if node.domain:
        if on_cpu and node.domain == CONTRIB and node.op_type in CONTRIBUTED:
            return []
        return [f"operator {node.domain}::{node.op_type} is not standard ONNX"]
    if node.op_type in DATA_DEPENDENT:
        return [f"{node.op_type} makes shapes depend on data"]
    if on_cpu and node.op_type in STANDARD_ON_CPU:
        return []
    # apart from their fused operators, graphs for CPUs keep to TensorRT's list, too
    if node.op_type not in TENSORRT_10_3:
        return [f"{node.op_type} is not known to TensorRT 10.3"]
    # types are checked for TensorRT only: ONNX Runtime refuses what it lacks as it loads a graph,
    # and every graph is run before it is shipped
    return [] if on_cpu else wrong_types(node)


def _interface_findings(model: ir.Model, part: str, interface: tuple[Dims, Dims]) -> list[str]:
    """Checks names and dimensions of the graph's inputs and outputs."""
    findings = []
    for expected, values in zip(interface, (model.graph.inputs, model.graph.outputs), strict=True):
        shapes = {value.name: value.shape for value in values}
        if set(shapes) != set(expected):
            findings.append(
                f"{part}: has {sorted(map(str, shapes))}, the runtime expects {sorted(expected)}"
            )
            continue  # without the same names there is nothing to compare dimensions with
        for name, dims in expected.items():
            shape = shapes[name]
            actual = [] if shape is None else [d if isinstance(d, int) else d.value for d in shape]
            if not _fits(actual, dims):
                findings.append(
                    f"{name}: has the dimensions {actual}, the runtime expects {list(dims)}"
                )
    return findings


def _fits(actual: list[int | str | None], expected: tuple[int | str | None, ...]) -> bool:
    """Returns whether dimensions agree; an expected None fits any size."""
    return len(actual) == len(expected) and all(
        fixed is None or fixed == size for fixed, size in zip(expected, actual, strict=True)
    )


def _quantization_findings(model: ir.Model) -> list[str]:
    """Checks TensorRT's rules of explicit quantization.

    Scales are constants, zero points 0, and every QuantizeLinear feeds a DequantizeLinear alone.
    """
    # INT32 biases after Q/DQ, which TensorRT refuses, are found by their type (`wrong_types`)
    findings = []
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        _, scale, zero = (*node.inputs, None)[:3]  # the zero point may be left out
        if scale is None or scale.const_value is None:
            findings.append(f"{node.name}: its scale is not a constant")
        if zero is not None and (zero.const_value is None or zero.const_value.numpy().any()):
            findings.append(f"{node.name}: its zero point is not zero")
        if node.op_type == "QuantizeLinear" and any(
            user.op_type != "DequantizeLinear" for user in node.outputs[0].consumers()
        ):
            findings.append(f"{node.name}: feeds something other than DequantizeLinear")
    return findings


def _promise_findings(model: ir.Model, graph: str) -> list[str]:
    """Checks that the graph is what its name says: half or INT8 arithmetic in its linear layers."""
    # a rewrite that matches nothing raises no error, and its graph would pass every gate
    types = {
        value.dtype
        for node in model.graph
        if node.op_type == "MatMul"
        for value in node.inputs
        if value is not None
    }
    operators = {node.op_type for node in model.graph}
    if graph in ("fp16", "int8") and ir.DataType.FLOAT16 not in types:
        return [f"{graph}: no MatMul computes in half"]
    if graph == "int8" and "QuantizeLinear" not in operators:
        return ["int8: nothing is quantized"]
    if graph in CPU_PRODUCTS and CPU_PRODUCTS[graph] not in operators:
        return [f"{graph}: nothing is quantized"]
    if graph == "fp32-cpu" and not {"GroupQueryAttention", "MultiHeadAttention"} & operators:
        return ["fp32-cpu: no attention is fused"]
    if graph in ("fp32", "fp32-cpu") and ir.DataType.FLOAT16 in types:
        return ["fp32: a MatMul computes in half"]
    return []
