"""Lint: exported graphs are clean, and every rule has a graph that breaks it and is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from lame_export.lint.linter import lint
from lame_export.lint.tensorrt_operators import ANY, NUMBER, REAL, TENSORRT_10_3
from lame_runtime.contract import Contract

FLOAT, HALF, INT8, INT64, BOOL = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.INT64,
    ir.DataType.BOOL,
)
OUTSIDE = {
    REAL: INT64,
    NUMBER: BOOL,
    ANY: INT8,
    frozenset({BOOL}): FLOAT,
    frozenset({FLOAT}): INT64,
    frozenset({INT8}): ir.DataType.UINT8,
}
"""For each set of types, a usual type that it does not hold."""
COMPARE = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def single_node(op: str, dtype: ir.DataType) -> ir.Model:
    """Makes a graph of one node that works on a value of this type."""

    def value(name: str, kind: ir.DataType) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape([4]), type=ir.TensorType(kind))

    inputs, result = [value("x", dtype), value("y", dtype)], dtype
    if op == "Where":
        inputs = [value("condition", BOOL), *inputs]
    elif op == "QuantizeLinear":
        result = INT8
    elif op == "DequantizeLinear":
        inputs, result = [value("x", dtype), value("scale", HALF)], HALF
    elif op in COMPARE:
        result = BOOL
    elif op == "Cast":
        inputs, result = inputs[:1], FLOAT
    elif op in ("Constant", "ConstantOfShape"):
        inputs = [value("shape", INT64)]
    node = ir.node(
        op,
        inputs,
        {"to": FLOAT} if op == "Cast" else None,
        outputs=[value("out", result)],
        name="the node",
    )
    return ir.Model(
        ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 20}, name="one"),
        ir_version=10,
    )


FindTypes = Callable[[ir.Model], list[str]]


@pytest.fixture
def find_types(exported: Path, tmp_path: Path) -> FindTypes:
    """Lints a model as an encoder's FP32 graph and returns the findings about types."""

    def findings(model: ir.Model) -> list[str]:
        ir.save(model, tmp_path / "a.onnx")
        contract = Contract.load(exported / "contract.json")
        everything = lint(tmp_path / "a.onnx", "encoder", "fp32", contract)
        return [finding for finding in everything if "TensorRT 10.3" in finding]

    return findings


@pytest.mark.parametrize("op", sorted(TENSORRT_10_3))
def test_each_operator_takes_its_types_and_no_others(op: str, find_types: FindTypes) -> None:
    """One node per graph, with every type that is right, and with one that is not."""
    right = TENSORRT_10_3[op]
    for dtype in sorted(right):
        assert find_types(single_node(op, dtype)) == []
    wrong = OUTSIDE[right]
    finding = find_types(single_node(op, wrong))[0]
    assert finding.startswith(f"the node: {op} of {wrong.name}, TensorRT 10.3 takes ")


def nodes(model: ir.Model, *ops: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in ops]


def first(model: ir.Model, op: str) -> ir.Node:
    return nodes(model, op)[0]


def plant_cast(model: ir.Model, to: ir.DataType) -> None:
    """Makes a Cast's result another type, in the attribute and in the value beside it."""
    cast = first(model, "Cast")
    cast.attributes["to"] = ir.AttrInt64("to", int(to))
    cast.outputs[0].dtype = to


def plant_attribute(model: ir.Model, to: ir.DataType) -> None:
    """Makes a Cast's result another type in the attribute only."""
    first(model, "Cast").attributes["to"] = ir.AttrInt64("to", int(to))


def plant_index(model: ir.Model, to: ir.DataType) -> None:
    """Gives the indices of a Gather another type."""
    first(model, "Gather").inputs[1].dtype = to  # type: ignore[union-attr]


def plant_unknown(model: ir.Model, to: None) -> None:
    """Drops the type of a value."""
    first(model, "MatMul").outputs[0].type = to


@pytest.mark.parametrize(
    ("plant", "dtype", "message"),
    [
        (plant_cast, ir.DataType.DOUBLE, "Cast has a value of DOUBLE"),
        (plant_cast, ir.DataType.INT8, "Cast has a value of INT8"),
        (plant_attribute, ir.DataType.DOUBLE, "Cast has a value of DOUBLE"),
        (plant_index, ir.DataType.UINT16, "Gather has a value of UINT16"),
        (plant_index, ir.DataType.STRING, "Gather has a value of STRING"),
        (plant_unknown, None, "MatMul has a value of an unknown type"),
    ],
)
def test_values_of_other_types_are_found(
    plant: Callable[[ir.Model, ir.DataType | None], None],
    dtype: ir.DataType | None,
    message: str,
    exported: Path,
    find_types: FindTypes,
) -> None:
    """Each is planted in an exported graph, which has no finding without it."""
    model = ir.load(exported / "graphs/encoder.fp32.onnx")
    assert find_types(model) == []
    plant(model, dtype)
    expected = f"{message}, which TensorRT 10.3 does not compute with"
    assert any(expected in finding for finding in find_types(model))


def test_an_activation_in_int8_may_only_be_restored(exported: Path, tmp_path: Path) -> None:
    """Between Q and DQ there is nothing; a Transpose of integers is found."""
    path = exported / "graphs/encoder.int8.onnx"
    contract = Contract.load(exported / "contract.json")
    assert lint(path, "encoder", "int8", contract) == []
    model = ir.load(path)
    restore = next(
        node
        for node in model.graph
        if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None
    )
    turned = ir.node(
        "Transpose",
        [restore.inputs[0]],
        outputs=[ir.Value(name="turned", type=ir.TensorType(INT8))],
        name="turn",
    )
    model.graph.insert_before(restore, turned)
    restore.replace_input_with(0, turned.outputs[0])
    ir.save(model, tmp_path / "a.onnx")
    findings = lint(tmp_path / "a.onnx", "encoder", "int8", contract)
    assert any(finding.startswith("turn: Transpose of INT8") for finding in findings)


@pytest.mark.parametrize("graph", ["fp32", "fp16", "int8", "int8-cpu"])
@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_exported_graphs_are_clean(part: str, graph: str, exported: Path) -> None:
    """There are no findings, and the file holds nothing of the exporting machine."""
    path = exported / f"graphs/{part}.{graph}.onnx"
    assert lint(path, part, graph, Contract.load(exported / "contract.json")) == []
    assert b"/" + b"site-packages" not in path.read_bytes()
    assert b"forward.py" not in path.read_bytes()


def test_a_graph_for_cpus_that_does_not_hold_what_its_name_promises_is_found(
    exported: Path,
) -> None:
    """A graph of another kind, under the name of a quantized one."""
    contract = Contract.load(exported / "contract.json")
    plain = exported / "graphs/encoder.fp32.onnx"
    assert lint(plain, "encoder", "int8-cpu", contract) == ["int8-cpu: nothing is quantized"]
    other = exported / "graphs/encoder.int8-cpu.onnx"
    assert "w4-cpu: nothing is quantized" in lint(other, "encoder", "w4-cpu", contract)


def break_opset(model: ir.Model) -> None:
    model.graph.opset_imports[""] = 23


def break_operator(model: ir.Model) -> None:
    first(model, "MatMul").op_type = "RMSNormalization"


def break_domain(model: ir.Model) -> None:
    first(model, "MatMul").domain = "com.microsoft"


def break_contributed_operator(model: ir.Model) -> None:
    node = first(model, "MatMul")
    node.op_type, node.domain = "FusedGelu", "com.microsoft"


def break_static_shapes(model: ir.Model) -> None:
    first(model, "MatMul").op_type = "NonZero"


def break_input_name(model: ir.Model) -> None:
    model.graph.inputs[0].name = "ids"


def break_dimension(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape([1, 77])


def break_metadata(model: ir.Model) -> None:
    properties = first(model, "MatMul").metadata_props
    properties["pkg.torch.onnx.stack_trace"] = "/home/somebody/model.py"


def break_zero_point(model: ir.Model) -> None:
    zero = first(model, "QuantizeLinear").inputs[2]
    zero.const_value = ir.tensor(np.asarray(3, dtype=np.int8))  # type: ignore[union-attr]


def break_scale(model: ir.Model) -> None:
    quantize = first(model, "QuantizeLinear")
    quantize.replace_input_with(1, quantize.inputs[0])


def reader_of_steps(model: ir.Model) -> ir.Node:
    """Returns the node behind the first QuantizeLinear."""
    return first(model, "QuantizeLinear").outputs[0].uses()[0][0]


def break_quantized_type(model: ir.Model) -> None:
    reader_of_steps(model).inputs[0].dtype = ir.DataType.UINT8  # type: ignore[union-attr]


def break_reader(model: ir.Model) -> None:
    reader_of_steps(model).op_type = "Identity"


def break_quantization(model: ir.Model) -> None:
    for node in nodes(model, "QuantizeLinear", "DequantizeLinear"):
        node.op_type = "Identity"


def set_type(node: ir.Node, dtype: ir.DataType) -> None:
    for value in node.inputs:
        value.dtype = dtype  # type: ignore[union-attr]


def break_full_precision(model: ir.Model) -> None:
    set_type(first(model, "MatMul"), HALF)


def break_half_precision(model: ir.Model) -> None:
    for node in nodes(model, "MatMul"):
        set_type(node, FLOAT)


@pytest.mark.parametrize(
    ("corrupt", "graph", "message"),
    [
        (break_opset, "int8", "opset 23"),
        (break_operator, "int8", "not known to TensorRT 10.3"),
        (break_domain, "int8", "not standard ONNX"),
        (break_static_shapes, "int8", "depend on data"),
        (break_input_name, "int8", "the runtime expects"),
        (break_dimension, "int8", "the runtime expects"),
        (break_metadata, "int8", "paths of the exporting machine"),
        (break_zero_point, "int8", "zero point is not zero"),
        (break_scale, "int8", "scale is not a constant"),
        (break_quantized_type, "int8", "DequantizeLinear of UINT8, TensorRT 10.3 takes INT8"),
        (break_reader, "int8", "feeds something other than DequantizeLinear"),
        (break_quantization, "int8", "nothing is quantized"),
        (break_half_precision, "int8", "no MatMul computes in half"),
        (break_full_precision, "fp32", "a MatMul computes in half"),
        (break_contributed_operator, "int8-cpu", "not standard ONNX"),
        (break_operator, "int8-cpu", "not known to TensorRT 10.3"),
    ],
)
def test_a_graph_with_one_thing_wrong_is_found(
    corrupt: Callable[[ir.Model], None], graph: str, message: str, exported: Path, tmp_path: Path
) -> None:
    """The control of lint: every rule has a graph that breaks it, and a finding about it."""
    model = ir.load(exported / f"graphs/encoder.{graph}.onnx")
    corrupt(model)
    ir.save(model, tmp_path / "a.onnx")
    contract = Contract.load(exported / "contract.json")
    findings = lint(tmp_path / "a.onnx", "encoder", graph, contract)
    assert any(message in finding for finding in findings)
