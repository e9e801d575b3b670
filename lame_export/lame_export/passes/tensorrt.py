"""What the ONNX parser of TensorRT 10.3 takes, restricted to what an encoder can need: operators, and the types of each.

From its operators.md. A type is listed where the tables of both TensorRT 9.2 and 10.15, on either side of 10.3, list it,
so a graph within these is safe with every version between. INT8 stands between QuantizeLinear and DequantizeLinear only.
"""

from __future__ import annotations

import onnx_ir as ir

REAL = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
NUMBER = REAL | {ir.DataType.INT32, ir.DataType.INT64}
ANY = NUMBER | {ir.DataType.BOOL}
"""What a value may be outside the quantised parts: DOUBLE would be computed in FP32, UINT8 is for inputs and outputs alone."""
_FALSE_OR_TRUE = frozenset({ir.DataType.BOOL})

_OPERATORS = {
    REAL: """
    Ceil Clip Cos CumSum Einsum Erf Exp Floor Gemm LayerNormalization Log MatMul Pow QuantizeLinear Reciprocal Round Sigmoid
    Sin Softmax Sqrt Tanh
    """,
    NUMBER: """
    Abs Add Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Neg Pad Range ReduceL2 ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum Relu ScatterElements ScatterND Sign Sub Sum TopK
    """,
    ANY: """
    Cast Concat Constant Expand Flatten Gather GatherElements GatherND Identity Reshape Shape Slice Split Squeeze Tile
    Transpose Unsqueeze Where
    """,
    _FALSE_OR_TRUE: "And Not Or Xor",
    frozenset({ir.DataType.FLOAT}): "ConstantOfShape",
    frozenset({ir.DataType.INT8}): "DequantizeLinear",
}
TENSORRT_10_3 = {name: types for types, names in _OPERATORS.items() for name in names.split()}
"""By operator, the types of the value it works on."""
_WORKS_ON_INPUT = {"Where": 1}
"""Number of that value among the inputs, where it is not the first."""
_WORKS_ON_OUTPUT = frozenset({"Constant", "ConstantOfShape"})


def wrong_types(node: ir.Node) -> list[str]:
    """Findings about the types of a node that TensorRT has: of the value it works on, and of all others."""
    allowed = TENSORRT_10_3[node.op_type]
    values = node.outputs if node.op_type in _WORKS_ON_OUTPUT else node.inputs[_WORKS_ON_INPUT.get(node.op_type, 0) :]
    worked_on = values[0] if values else None
    found = []
    if worked_on is not None and worked_on.dtype not in allowed:
        takes = ", ".join(sorted(map(_name, allowed)))
        found.append(f"{node.op_type} of {_name(worked_on.dtype)}, TensorRT 10.3 takes {takes}")
    quantised = {ir.DataType.INT8} if node.op_type in ("QuantizeLinear", "DequantizeLinear") else set()
    others = {value for value in (*node.inputs, *node.outputs) if value is not None and value is not worked_on}
    kinds = {value.dtype for value in others} | ({ir.DataType(node.attributes["to"].as_int())} if node.op_type == "Cast" else set())
    strange = sorted(map(_name, kinds - ANY - quantised))
    return found + [f"{node.op_type} has a value of {each}, which TensorRT 10.3 does not compute with" for each in strange]


def _name(dtype: ir.DataType | None) -> str:
    return "an unknown type" if dtype is None else dtype.name
