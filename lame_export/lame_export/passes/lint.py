"""Lint: what a graph must satisfy before anything is built from it, judged from the file alone.

A graph of ours that goes beyond the operators and types of TensorRT 10.3 (`passes.tensorrt`) fails here rather than on a
Jetson.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from lame_runtime.contract import Contract

from lame_export.passes.nodes import CONTRIB
from lame_export.passes.scopes import MODULE
from lame_export.passes.tensorrt import TENSORRT_10_3, wrong_types

MAX_OPSET = 20
CPU_OPSET = 23
"""For graphs that only ONNX Runtime's CPU provider runs: the first with Attention and RotaryEmbedding."""

PRODUCT = {"int8-cpu": "MatMulIntegerToFloat", "w8-cpu": "MatMulNBits", "w4-cpu": "MatMulNBits"}
"""The product of each graph that is for CPUs and never meets TensorRT."""
STANDARD_ON_CPU = frozenset({"Attention", "RotaryEmbedding"})
CONTRIBUTED = frozenset({*PRODUCT.values(), "MultiHeadAttention", "QuantizeLinear", "SkipSimplifiedLayerNormalization"})
"""ONNX Runtime's own operators that those graphs may use."""
DATA_DEPENDENT = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "Loop", "If", "Scan"})
"""Shapes that depend on values have no optimisation profile."""

Dims = dict[str, tuple[int | str | None, ...]]
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
"""Names and dimensions the runtime relies on; None is any fixed or derived size."""


def vision_interface(contract: Contract) -> tuple[Dims, Dims]:
    """The same for the vision graph, whose tables depend on the family."""
    inputs: Dims = {"pixel_patches": ("pictures", "patches", None), "patch_positions": (2, "patches")}
    if contract.tower.window:
        inputs |= {"window_index": ("windows", None), "window_mask": ("windows", None), "window_place": ("patches",)}
    if contract.tower.position_side:
        inputs |= {"interpolation_index": (4, "patches"), "interpolation_weight": (4, "patches")}
    return inputs, {"features": ("pictures", None, None)}


def lint(path: Path, part: str, graph: str, contract: Contract) -> list[str]:
    """Findings about one file, empty when it is clean.

    Args:
        path: the ONNX file.
        part: "vision" or "encoder".
        graph: its name, as in `plan.GRAPHS`.
        contract: for the tables the vision graph takes.
    """
    model = ir.load(path)
    found = []
    opset = model.opset_imports.get("", 0)
    on_cpu = graph in PRODUCT
    if opset > (CPU_OPSET if on_cpu else MAX_OPSET):
        found.append(f"opset {opset}: TensorRT 10.3 reads up to {MAX_OPSET}, and graphs for CPUs have {CPU_OPSET}")
    allowed = TENSORRT_10_3.keys() | (STANDARD_ON_CPU if on_cpu else frozenset())
    for node in model.graph:
        where = node.name or node.op_type
        if node.domain:
            if not (on_cpu and node.domain == CONTRIB and node.op_type in CONTRIBUTED):
                found.append(f"{where}: operator {node.domain}::{node.op_type} is not standard ONNX")
        elif node.op_type in DATA_DEPENDENT:
            found.append(f"{where}: {node.op_type} makes shapes depend on data")
        elif node.op_type not in allowed:
            found.append(f"{where}: {node.op_type} is not known to TensorRT 10.3")
        elif not on_cpu:
            found += [f"{where}: {each}" for each in wrong_types(node)]
        if any("/" in value for key, value in node.metadata_props.items() if key != MODULE):
            found.append(f"{where}: carries paths of the exporting machine")
    found += _interface(model, part, ENCODER if part == "encoder" else vision_interface(contract))
    if not on_cpu:
        found += _quantisation(model)
    found += _promised(model, graph)
    return found


def _interface(model: ir.Model, part: str, interface: tuple[Dims, Dims]) -> list[str]:
    found = []
    for expected, values in zip(interface, (model.graph.inputs, model.graph.outputs), strict=True):
        shapes = {value.name: value.shape for value in values}
        if set(shapes) != set(expected):
            found.append(f"{part}: has {sorted(map(str, shapes))}, the runtime expects {sorted(expected)}")
            continue
        for name, dims in expected.items():
            shape = shapes[name]
            actual = [] if shape is None else [d if isinstance(d, int) else d.value for d in shape]
            if len(actual) != len(dims) or any(want is not None and want != got for want, got in zip(dims, actual, strict=False)):
                found.append(f"{name}: has the dimensions {actual}, the runtime expects {list(dims)}")
    return found


def _quantisation(model: ir.Model) -> list[str]:
    """TensorRT's rules: symmetric, constant scales, a DequantizeLinear behind each QuantizeLinear, no INT32 bias."""
    found = []
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        _, scale, zero = (*node.inputs, None)[:3]
        if scale is None or scale.const_value is None:
            found.append(f"{node.name}: its scale is not a constant")
        if zero is not None and (zero.const_value is None or zero.const_value.numpy().any()):
            found.append(f"{node.name}: its zero point is not zero")
        if node.op_type == "QuantizeLinear" and any(user.op_type != "DequantizeLinear" for user in node.outputs[0].consumers()):
            found.append(f"{node.name}: feeds something other than DequantizeLinear")
    return found


def _promised(model: ir.Model, graph: str) -> list[str]:
    """The graph is what its name says: half or INT8 arithmetic in its linear layers."""
    kinds = {value.dtype for node in model.graph if node.op_type == "MatMul" for value in node.inputs if value is not None}
    ops = {node.op_type for node in model.graph}
    if graph in ("fp16", "int8") and ir.DataType.FLOAT16 not in kinds:
        return [f"{graph}: no MatMul computes in half"]
    if graph == "int8" and "QuantizeLinear" not in ops:
        return ["int8: nothing is quantised"]
    if graph in PRODUCT and PRODUCT[graph] not in ops:
        return [f"{graph}: nothing is quantised"]
    if graph == "fp32" and ir.DataType.FLOAT16 in kinds:
        return ["fp32: a MatMul computes in half"]
    return []
