"""Operators that the ONNX parser of TensorRT 10.3 reads, with their types.

Restricted to what an encoder can need, from the parser's `operators.md`. A type is listed if the
tables of both TensorRT 9.2 and 10.15, on either side of 10.3, list it, so a graph within these is
safe with every version between. INT8 is allowed between QuantizeLinear and DequantizeLinear only.
"""

from __future__ import annotations

import onnx_ir as ir

REAL = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
NUMBER = REAL | {ir.DataType.INT32, ir.DataType.INT64}
ANY = NUMBER | {ir.DataType.BOOL}
"""Types of values outside the quantized parts.

Not DOUBLE, which TensorRT would compute in FP32, nor UINT8, which it takes for inputs of the graph
that a Cast reads, and for nothing else.
"""
_TRUTH = frozenset({ir.DataType.BOOL})

# operators by the types they take, as the parser's tables give them
_OPERATORS = {
    REAL: """
    Ceil Clip Cos CumSum Einsum Erf Exp Floor Gemm LayerNormalization Log MatMul Pow QuantizeLinear
    Reciprocal Round Sigmoid Sin Softmax Sqrt Tanh
    """,
    NUMBER: """
    Abs Add Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Neg Pad Range
    ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu ScatterElements ScatterND Sign
    Sub Sum TopK
    """,
    ANY: """
    Cast Concat Constant Expand Flatten Gather GatherElements GatherND Identity Reshape Shape Slice
    Split Squeeze Tile Transpose Unsqueeze Where
    """,
    _TRUTH: "And Not Or Xor",
    frozenset({ir.DataType.FLOAT}): "ConstantOfShape",
    frozenset({ir.DataType.INT8}): "DequantizeLinear",
}
TENSORRT_10_3 = {name: types for types, names in _OPERATORS.items() for name in names.split()}
"""By operator, the types of the value it works on."""
_MAIN_INPUT = {"Where": 1}
"""Index of the input that an operator works on, if it is not the first."""
_MAIN_OUTPUT = frozenset({"Constant", "ConstantOfShape"})
"""Operators that make their value, so that the type of their output counts."""
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def wrong_types(node: ir.Node) -> list[str]:
    """Returns findings about the types of a node's values; empty if TensorRT takes all of them.

    Args:
        node: a node whose operator is in `TENSORRT_10_3`.
    """
    # a finding for each: an operator of the right type may still read indices of a wrong one
    main = _main_value(node)
    return [*_wrong_main_type(node, main), *_wrong_other_types(node, main)]


def _main_value(node: ir.Node) -> ir.Value | None:
    """Returns the value that the operator works on, whose type its table restricts."""
    if node.op_type in _MAIN_OUTPUT:
        return node.outputs[0] if node.outputs else None
    # the first input of a Where is its condition, which is BOOL whatever it chooses between
    index = _MAIN_INPUT.get(node.op_type, 0)
    return node.inputs[index] if index < len(node.inputs) else None


def _wrong_main_type(node: ir.Node, main: ir.Value | None) -> list[str]:
    allowed = TENSORRT_10_3[node.op_type]
    if main is None or main.dtype in allowed:
        return []
    if node.op_type == "Cast" and main.dtype == ir.DataType.UINT8 and main.is_graph_input():
        return []
    types = ", ".join(sorted(map(_name, allowed)))
    return [f"{node.op_type} of {_name(main.dtype)}, TensorRT 10.3 takes {types}"]


def _wrong_other_types(node: ir.Node, main: ir.Value | None) -> list[str]:
    others = (value for value in (*node.inputs, *node.outputs) if value is not None)
    types = {value.dtype for value in others if value is not main}
    if node.op_type == "Cast":
        # the attribute decides, whatever type is written beside the output
        types.add(ir.DataType(node.attributes["to"].as_int()))
    # integers of Q/DQ: the output of the one and the zero point of both
    allowed = ANY | {ir.DataType.INT8} if node.op_type in _QUANTIZERS else ANY
    return [
        f"{node.op_type} has a value of {name}, which TensorRT 10.3 does not compute with"
        for name in sorted(map(_name, types - allowed))
    ]


def _name(dtype: ir.DataType | None) -> str:
    return "an unknown type" if dtype is None else dtype.name
