"""The types TensorRT 10.3 takes: for each operator a graph that breaks its rule, and planted ones in a graph that was exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from lame_export.passes.lint import lint
from lame_export.passes.tensorrt import ANY, NUMBER, REAL, TENSORRT_10_3
from lame_runtime.contract import Contract

FLOAT, HALF, INT8, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.INT64, ir.DataType.BOOL
OUTSIDE = {REAL: INT64, NUMBER: BOOL, ANY: INT8, frozenset({BOOL}): FLOAT, frozenset({FLOAT}): INT64, frozenset({INT8}): ir.DataType.UINT8}
"""For each set of types, a usual one that it does not hold."""
COMPARE = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def only(op: str, dtype: ir.DataType) -> ir.Model:
    """A graph of one node that works on a value of this type."""

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
    node = ir.node(op, inputs, {"to": FLOAT} if op == "Cast" else None, outputs=[value("out", result)], name="the one")
    return ir.Model(ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 20}, name="one"), ir_version=10)


@pytest.fixture
def found(exported: Path, tmp_path: Path) -> Callable[[ir.Model], list[str]]:
    """What lint says about types of an encoder's FP32 graph."""

    def findings(model: ir.Model) -> list[str]:
        ir.save(model, tmp_path / "a.onnx")
        said = lint(tmp_path / "a.onnx", "encoder", "fp32", Contract.load(exported / "contract.json"))
        return [each for each in said if "TensorRT 10.3" in each]

    return findings


@pytest.mark.parametrize("op", sorted(TENSORRT_10_3))
def test_each_operator_takes_its_types_and_no_others(op: str, found: Callable[[ir.Model], list[str]]) -> None:
    """One node per graph, once with every type that is right and once with one that is not."""
    right = TENSORRT_10_3[op]
    assert [each for dtype in sorted(right) for each in found(only(op, dtype))] == []
    wrong = OUTSIDE[right]
    assert found(only(op, wrong))[0].startswith(f"the one: {op} of {wrong.name}, TensorRT 10.3 takes ")


def plant_cast(model: ir.Model, to: ir.DataType) -> None:
    """Makes a cast's result another type, in the attribute and in what is written beside it."""
    cast = next(node for node in model.graph if node.op_type == "Cast")
    cast.attributes["to"] = ir.AttrInt64("to", int(to))
    cast.outputs[0].dtype = to


def plant_attribute(model: ir.Model, to: ir.DataType) -> None:
    """Only in the attribute."""
    next(node for node in model.graph if node.op_type == "Cast").attributes["to"] = ir.AttrInt64("to", int(to))


def plant_index(model: ir.Model, to: ir.DataType) -> None:
    """As what a Gather looks up by."""
    next(node for node in model.graph if node.op_type == "Gather").inputs[1].dtype = to  # type: ignore[union-attr]


def plant_unknown(model: ir.Model, to: None) -> None:
    """A value whose type is not written down."""
    next(node for node in model.graph if node.op_type == "MatMul").outputs[0].type = to


@pytest.mark.parametrize(
    ("plant", "dtype", "said"),
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
    said: str,
    exported: Path,
    found: Callable[[ir.Model], list[str]],
) -> None:
    """Planted in an exported graph, which has no finding without."""
    model = ir.load(exported / "graphs/encoder.fp32.onnx")
    assert found(model) == []
    plant(model, dtype)
    assert any(f"{said}, which TensorRT 10.3 does not compute with" in each for each in found(model))


def test_an_activation_in_int8_is_for_restoring_only(exported: Path, tmp_path: Path) -> None:
    """Between Q and DQ there is nothing; a transposition of steps is found."""
    path = exported / "graphs/encoder.int8.onnx"
    contract = Contract.load(exported / "contract.json")
    assert lint(path, "encoder", "int8", contract) == []
    model = ir.load(path)
    restore = next(node for node in model.graph if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None)
    turned = ir.node("Transpose", [restore.inputs[0]], outputs=[ir.Value(name="turned", type=ir.TensorType(INT8))], name="turn")
    model.graph.insert_before(restore, turned)
    restore.replace_input_with(0, turned.outputs[0])
    ir.save(model, tmp_path / "a.onnx")
    assert any(each.startswith("turn: Transpose of INT8") for each in lint(tmp_path / "a.onnx", "encoder", "int8", contract))
