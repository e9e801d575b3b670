"""Graphs as hostile input: bytes, operators, outputs, external data; with hashes made anew."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fuzz.case import Case
from fuzz.kinds.base import TINY_BUNDLE
from fuzz.kinds.bundle_copies import BundleCopy

_LOCATIONS = (
    "{elsewhere}/secret.data", "../../elsewhere/secret.data", "../contract.json", "/dev/zero",
    "/dev/stdin", "*/_ORT_MEM_ADDR_/*", "", ".", "..", "encoder.fp32.onnx",
    "vision.fp32.onnx.data", "missing.data",
    "encoder.fp32.onnx.data/../../../elsewhere/secret.data", "ENCODER.FP32.ONNX.DATA", "a\0b",
    "file:x", "\\..\\x",
)  # fmt: skip
_NUMBERS = ("0", "-1", "1", "3", "99999999999", "9" * 30, "x", "", "0x10", "1e3")
_OUTPUTS: tuple[tuple[int, tuple[Any, ...]], ...] = (
    (TensorProto.FLOAT, (1, 64)), (TensorProto.FLOAT, ()), (TensorProto.FLOAT, (3,)),
    (TensorProto.FLOAT, (3, 32)), (TensorProto.FLOAT, (3, 64, 1)), (TensorProto.INT64, (3, 64)),
    (TensorProto.BOOL, (3, 64)), (TensorProto.DOUBLE, (3, 64)), (TensorProto.FLOAT16, (3, 64)),
    (TensorProto.STRING, (3, 64)), (TensorProto.FLOAT, (0, 64)),
)  # fmt: skip


@cache
def _models() -> dict[str, bytes]:
    names = ("graphs/encoder.fp32.onnx", "graphs/vision.fp32.onnx")
    return {name: (TINY_BUNDLE / name).read_bytes() for name in names}


class Graphs(BundleCopy):
    """Changes a graph; a case holds the file and what to change, because graphs are large.

    The bound on memory is not applied: what a graph computes is bounded by a sandbox.
    """

    name = "graphs"
    share = 2.0
    slice_cases = 120
    bounded = False

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        name = random.choice(sorted(_models()))
        case: Case = {"rehash": True, "calls": ["load"], "graph": name}
        choice = random.random()
        if choice < 0.3:
            size = len(_models()[name])
            count = random.choice((1, 1, 2, 8))
            case["set"] = [[random.randrange(size), random.randrange(256)] for _ in range(count)]
        elif choice < 0.4:
            case["cut"] = random.randrange(len(_models()[name]))
        elif choice < 0.6:
            field = random.choice(("location", "location", "offset", "length", "checksum"))
            value = random.choice(_LOCATIONS if field == "location" else _NUMBERS)
            case["external"] = [random.randrange(200), field, value]
        elif choice < 0.75:
            case["output"] = random.randrange(len(_OUTPUTS))
        else:
            operation = random.choice(
                ("drop", "swap", "rename", "dims", "type", "domain", "attribute", "opset")
            )
            case["node"] = [operation, random.randrange(1000), random.randrange(1000)]
        return case

    def prepare(self, case: Case) -> None:
        """Makes the copy and writes the graph."""
        name = case["graph"]
        content = [name, changed_graph(_models()[name], case)]
        super().prepare({**case, "bytes": [content]})

    def run(self, case: Case) -> None:
        """Loads the bundle; the model is another one."""
        super().run({**case, "bytes": [[case["graph"]]]})


def changed_graph(data: bytes, case: Case) -> bytes:
    """Returns the bytes of a graph with a case's change."""
    if "set" in case:
        changed = bytearray(data)
        for offset, value in case["set"]:
            changed[offset] = value
        return bytes(changed)
    if "cut" in case:
        return data[: case["cut"]]
    model = onnx.load_model_from_string(data)
    if "external" in case:
        _change_external(model, *case["external"])
    elif "output" in case:
        _change_output(model, *_OUTPUTS[case["output"]])
    elif "node" in case:
        _change_node(model, *case["node"])
    return model.SerializeToString()


def _change_external(model: onnx.ModelProto, index: int, field: str, value: str) -> None:
    tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
    tensor = tensors[index % len(tensors)]
    for entry in tensor.external_data:
        if entry.key == field:
            entry.value = value
            return
    tensor.external_data.add(key=field, value=value)


def _change_output(model: onnx.ModelProto, kind: int, shape: tuple[int, ...]) -> None:
    """Replaces what the graph computes by a constant."""
    output = model.graph.output[0]
    if kind == TensorProto.STRING:
        constant = numpy_helper.from_array(np.full(shape, "a", dtype=object), "constant")
    else:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        constant = numpy_helper.from_array(np.ones(shape, dtype=dtype), "constant")
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = "replaced"
    model.graph.initializer.append(constant)
    model.graph.node.append(helper.make_node("Identity", ["constant"], [output.name]))
    output.CopyFrom(helper.make_tensor_value_info(output.name, kind, None))


def _change_node(model: onnx.ModelProto, operation: str, index: int, other: int) -> None:
    nodes, graph = model.graph.node, model.graph
    node, mate = nodes[index % len(nodes)], nodes[other % len(nodes)]
    tensor = graph.initializer[other % len(graph.initializer)]
    if operation == "drop":
        nodes.remove(node)
    elif operation == "swap" and node.input and mate.input:
        node.input[0] = mate.input[-1]
    elif operation == "rename":
        node.op_type = mate.op_type
    elif operation == "dims" and tensor.dims:
        tensor.dims[index % len(tensor.dims)] = (0, -1, 1, 2**40, 2**62)[index % 5]
    elif operation == "type":
        tensor.data_type = index % 25
    elif operation == "domain":
        node.domain = ("com.microsoft", "evil", "\x1b[31m", "ai.onnx.ml")[index % 4]
    elif operation == "attribute":
        node.attribute.add(name="to", i=2**62, type=onnx.AttributeProto.INT)
    elif operation == "opset":
        model.opset_import[0].version = (0, -1, 1, 2**31, 999)[index % 5]
