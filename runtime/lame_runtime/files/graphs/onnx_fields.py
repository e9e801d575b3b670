"""Lists the fields of ONNX's messages and the operators that an exported graph may have.

The numbers are those of `onnx.proto`. What is not listed here is refused: functions of the model,
graphs inside of operators, sparse tensors, training, and settings of devices.
"""

from __future__ import annotations

from collections.abc import Mapping

from lame_runtime.files.graphs.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Field,
    number,
    text,
    texts,
)

FLOAT, UINT8, INT32, INT64, BOOL = 1, 2, 6, 7, 9
"""ONNX's numbers of the element types that graphs take and return."""
DATA_TYPES: Mapping[int, str] = {
    1: "<f4",
    2: "u1",
    3: "i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
    16: "<u2",  # BF16, which NumPy does not have
}
"""NumPy's names of the element types that a graph may have, by ONNX's numbers."""
TYPE_NAMES = {
    FLOAT: "float32",
    UINT8: "uint8",
    INT32: "int32",
    INT64: "int64",
    BOOL: "bool",
    10: "float16",
}
"""Names of the common element types, for messages."""
ITEM_SIZES = {number: int(name[-1]) if name != "?" else 1 for number, name in DATA_TYPES.items()}
"""Bytes of an element, by ONNX's number of its type."""

_STANDARD = """
Abs Add And Attention Cast Ceil Clip Concat Constant ConstantOfShape Cos CumSum DequantizeLinear Div
Einsum Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm Greater GreaterOrEqual
Identity LayerNormalization Less LessOrEqual Log MatMul Max Mean Min Mod Mul Neg Not Or Pad Pow
QuantizeLinear Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu
Reshape RotaryEmbedding Round ScatterElements ScatterND Shape Sigmoid Sign Sin Slice Softmax Split
Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where Xor
"""
_CONTRIBUTED = """
GroupQueryAttention MatMulIntegerToFloat MatMulNBits MoE MultiHeadAttention QMoE QuantizeLinear
SkipSimplifiedLayerNormalization
"""
OPERATORS: Mapping[str, frozenset[str]] = {
    "": frozenset(_STANDARD.split()),
    "com.microsoft": frozenset(_CONTRIBUTED.split()),
}
"""Operators by domain: those that the exporter's linter accepts.

None of them holds a graph of its own, so no loop and no branch, and none names a file or a library.
"""

TENSOR = {
    1: Field("dims", (VARINT, BYTES), repeated=True),
    2: number("data_type"),
    4: Field("float_data", (FIXED32, BYTES), repeated=True),
    5: Field("int32_data", (VARINT, BYTES), repeated=True),
    7: Field("int64_data", (VARINT, BYTES), repeated=True),
    8: text("name"),
    9: text("raw_data"),
    10: Field("double_data", (FIXED64, BYTES), repeated=True),
    11: Field("uint64_data", (VARINT, BYTES), repeated=True),
    12: text("doc_string"),
    13: texts("external_data"),
    14: number("data_location"),
    16: texts("metadata_props"),
}
ATTRIBUTE = {
    1: text("name"),
    2: Field("f", (FIXED32,)),
    3: number("i"),
    4: text("s"),
    5: text("t"),
    7: Field("floats", (FIXED32, BYTES), repeated=True),
    8: Field("ints", (VARINT, BYTES), repeated=True),
    9: texts("strings"),
    13: text("doc_string"),
    20: number("type"),
}
NODE = {
    1: texts("input"),
    2: texts("output"),
    3: text("name"),
    4: text("op_type"),
    5: texts("attribute"),
    6: text("doc_string"),
    7: text("domain"),
    9: texts("metadata_props"),
}
GRAPH = {
    1: texts("node"),
    2: text("name"),
    5: texts("initializer"),
    10: text("doc_string"),
    11: texts("input"),
    12: texts("output"),
    13: texts("value_info"),
    16: texts("metadata_props"),
}
MODEL = {
    1: number("ir_version"),
    2: text("producer_name"),
    3: text("producer_version"),
    4: text("domain"),
    5: number("model_version"),
    6: text("doc_string"),
    7: text("graph"),
    8: texts("opset_import"),
    14: texts("metadata_props"),
}
VALUE = {1: text("name"), 2: text("type"), 3: text("doc_string"), 4: texts("metadata_props")}
TYPE = {1: text("tensor_type"), 6: text("denotation")}
TENSOR_TYPE = {1: number("elem_type"), 2: text("shape")}
SHAPE = {1: texts("dim")}
DIM = {1: number("dim_value"), 2: text("dim_param"), 3: text("denotation")}
ENTRY = {1: text("key"), 2: text("value")}
