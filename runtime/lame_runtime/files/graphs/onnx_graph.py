"""Reads what an ONNX file refers to, and refuses what no exported graph holds.

ONNX Runtime opens the file that a tensor names as its data; some releases open any file. It runs
loops without end, calls libraries that other operators name, and reads its own settings from a
model. All of this is stored in plain fields of the file, which are checked before ONNX Runtime or
TensorRT sees it. The bytes are read without the `onnx` package, which the runtime does not need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lame_runtime.errors import shown
from lame_runtime.files.graphs.divisions import DIVISIONS, require_safe
from lame_runtime.files.graphs.experts import EXPERTS, require_experts
from lame_runtime.files.graphs.onnx_fields import (
    ATTRIBUTE,
    DIM,
    ENTRY,
    GRAPH,
    ITEM_SIZES,
    MODEL,
    NODE,
    OPERATORS,
    SHAPE,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    VALUE,
)
from lame_runtime.files.graphs.protobuf import (
    Field,
    Message,
    Reader,
    as_text,
    decimal,
    integer_of,
    integers,
    string_of,
)

MAX_GRAPH_BYTES = 256 << 20
"""Largest ONNX file that is read; weights lie in a file of their own, a graph takes megabytes."""
MAX_RANK = 16
MOST_ENTRIES = {
    "node": 10_000,
    "initializer": 5_000,
    "value_info": 50_000,
    "input": 100,
    "output": 100,
}
"""Largest number of entries of each of a graph's lists.

ONNX Runtime takes a time that grows with the square of some of them. A model of 80 layers, the most
of any published one, has 6,500 nodes and 2,500 tensors.
"""
MAX_OPERANDS = 50_000
"""Largest number of inputs and outputs of all nodes together."""
MAX_ATTRIBUTE = (1 << 31) - 1
"""Largest absolute value of an integer attribute; some operators do not notice an overflow."""
MAX_ATTRIBUTE_INTEGERS = 1000
DATA_SUFFIX = ".data"
"""Suffix of a data file: the weights of `NAME.onnx` are in `NAME.onnx.data` beside it."""
_FOR_CPUS = "-cpu.onnx"
"""Ending of a graph's form for CPUs, which may share the other form's data; see `data_names`."""

Dims = tuple[int | str | None, ...]
"""Sizes of a value: fixed, symbolic, or None if nothing is known about one."""


@dataclass(frozen=True)
class Weight:
    """An initializer whose values lie in the graph's data file."""

    name: str
    data_type: int
    """ONNX's number of the element type."""
    dims: tuple[int, ...]
    offset: int
    """Position in the data file, in bytes."""
    length: int
    """Size in bytes."""


@dataclass(frozen=True)
class GraphFacts:
    """Holds the facts about a graph that the runtime needs before it is run."""

    inputs: dict[str, tuple[int, Dims]]
    """Element type and sizes by name; the same for `outputs`."""
    outputs: dict[str, tuple[int, Dims]]
    weights: tuple[Weight, ...]
    """The tensors of the data file; empty if the graph has none."""
    data_name: str
    """Name of the data file, one of `data_names`."""

    @property
    def data_size(self) -> int:
        """Smallest size of the data file that holds all weights, in bytes."""
        return max((weight.offset + weight.length for weight in self.weights), default=0)


def data_names(file_name: str) -> list[str]:
    """Returns the names that a graph's data file may have, the graph's own first.

    `encoder.fp32-cpu.onnx`, a graph's form for CPUs, may share the data of `encoder.fp32.onnx`.
    """
    names = [file_name + DATA_SUFFIX]
    if file_name.endswith(_FOR_CPUS):
        names.append(f"{file_name.removesuffix(_FOR_CPUS)}.onnx{DATA_SUFFIX}")
    return names


def read_graph(data: bytes, file_name: str) -> GraphFacts:
    """Reads an ONNX file.

    Args:
        data: the file's content.
        file_name: its name without a folder, which decides the names of the data file.

    Raises:
        ValueError: the file is not a graph as the exporter writes it; the text says why.
    """
    return _GraphReader(data_names(file_name)).model(memoryview(data))


class _GraphReader:
    def __init__(self, data_names: list[str]) -> None:
        self._reader = Reader()
        self._data_names = data_names
        self._operands_left = MAX_OPERANDS
        self._divisions: list[tuple[str, list[str]]] = []
        self._mixtures: list[tuple[list[str], int]] = []

    def model(self, data: memoryview) -> GraphFacts:
        model = self._reader.read(data, "ModelProto", MODEL)
        for entry in model.get("metadata_props", []):
            # ONNX Runtime can be told to take a session's settings from this entry
            if self._entry(entry)[0] == "ort_config":
                raise ValueError("holds ONNX Runtime session settings (ort_config)")
        if "graph" not in model:
            raise ValueError("holds no graph")
        graph = self._read(model["graph"][0], "GraphProto", GRAPH)
        for kind, most in MOST_ENTRIES.items():
            if len(graph.get(kind, [])) > most:
                raise ValueError(f"GraphProto.{kind} has more than {most:,} entries")
        for node in graph.get("node", []):
            self._check_node(node)
        tensors, weights = self._tensors(graph)
        inputs, outputs = (self._values(graph, kind) for kind in ("input", "output"))
        if overridden := sorted(set(inputs) & set(tensors)):
            raise ValueError(f"has an input and a tensor called {shown(overridden[0])}")
        declared = [(name, element) for name, (element, _) in (*inputs.items(), *outputs.items())]
        declared += [(name, integer_of(tensor, "data_type")) for name, tensor in tensors.items()]
        types: dict[str, int] = {}
        for name, element in (*declared, *self._inner_types(graph)):
            if types.setdefault(name, element) != element:
                raise ValueError(f"declares two types for {shown(name)}")
        require_safe(self._divisions, types, tensors)
        require_experts(self._mixtures, tensors)
        return GraphFacts(inputs, outputs, weights, self._data_names[0])

    def _tensors(self, graph: Message) -> tuple[dict[str, Message], tuple[Weight, ...]]:
        """Returns the graph's initializers by name, and those in the data file."""
        tensors: dict[str, Message] = {}
        weights = []
        for data in graph.get("initializer", []):
            tensor = self._read(data, "TensorProto", TENSOR)
            name, weight = self._initializer(tensor)
            if name in tensors:
                raise ValueError(f"has two tensors called {shown(name)}")
            tensors[name] = tensor
            if weight is not None:
                weights.append(weight)
        return tensors, tuple(weights)

    def _read(self, data: object, kind: str, fields: Mapping[int, Field]) -> Message:
        if not isinstance(data, memoryview):  # the tables allow nothing else here
            raise ValueError(f"{kind} is a number")
        return self._reader.read(data, kind, fields)

    def _check_node(self, data: object) -> None:
        node = self._read(data, "NodeProto", NODE)
        domain, operator = string_of(node, "domain"), string_of(node, "op_type")
        if operator not in OPERATORS.get(domain, ()):
            name = f"{domain}::{operator}" if domain else operator
            raise ValueError(f"has the operator {shown(name)}, which no exported graph has")
        operands = [as_text(operand) for operand in node.get("input", [])]
        self._operands_left -= len(operands) + len(node.get("output", []))
        if self._operands_left < 0:
            raise ValueError(f"its nodes have more than {MAX_OPERANDS:,} inputs and outputs")
        if operator in DIVISIONS:
            self._divisions.append((operator, operands))
        k = 1  # experts that a token takes
        for data in node.get("attribute", []):
            attribute = self._read(data, "AttributeProto", ATTRIBUTE)
            values = [*attribute.get("i", []), *attribute.get("ints", [])]
            for value in integers(values, MAX_ATTRIBUTE_INTEGERS):
                if abs(value) > MAX_ATTRIBUTE:
                    raise ValueError(f"has a {operator} with the attribute {value}, out of range")
            k = max(k, integer_of(attribute, "i") if string_of(attribute, "name") == "k" else 1)
            for tensor in attribute.get("t", []):
                content = self._read(tensor, "TensorProto", TENSOR)
                if self._initializer(content)[1] is not None:
                    raise ValueError(f"has a {shown(operator)} whose value is in another file")
        if operator in EXPERTS:
            self._mixtures.append((operands, k))

    def _inner_types(self, graph: Message) -> Iterator[tuple[str, int]]:
        """Yields names and element types that the graph declares for the outputs of nodes."""
        for data in graph.get("value_info", []):
            value = self._read(data, "ValueInfoProto", VALUE)
            for kind in value.get("type", []):
                for tensor in self._read(kind, "TypeProto", TYPE).get("tensor_type", []):
                    element = integer_of(self._read(tensor, "TypeProto", TENSOR_TYPE), "elem_type")
                    yield string_of(value, "name"), element

    def _initializer(self, tensor: Message) -> tuple[str, Weight | None]:
        """Returns a tensor's name, and where its values lie if they are not in the graph itself."""
        name, data_type = string_of(tensor, "name"), integer_of(tensor, "data_type")
        dims = tuple(integers(tensor.get("dims", []), MAX_RANK))
        size = math.prod(dims) * ITEM_SIZES.get(data_type, 0)
        if data_type not in ITEM_SIZES or any(dim < 0 for dim in dims):
            raise ValueError(f"tensor {shown(name)} has the type {data_type} and sizes {dims}")
        entries = [self._entry(entry) for entry in tensor.get("external_data", [])]
        location = integer_of(tensor, "data_location")
        if location not in (0, 1) or bool(location) != bool(entries):
            raise ValueError(f"tensor {shown(name)} does not say where its data is")
        stored = [key for key in tensor if key.endswith("_data") and key != "external_data"]
        if not entries:
            for raw in tensor.get("raw_data", []):
                if isinstance(raw, memoryview) and len(raw) != size:
                    raise ValueError(f"tensor {shown(name)} has {len(raw)} bytes, not {size}")
            if len(stored) > 1:
                raise ValueError(f"tensor {shown(name)} has its data twice")
            return name, None
        if stored or not name:
            raise ValueError(f"tensor {shown(name)} has its data twice, or no name")
        return name, self._weight(name, data_type, dims, size, entries)

    def _weight(
        self,
        name: str,
        data_type: int,
        dims: tuple[int, ...],
        size: int,
        entries: list[tuple[str, str]],
    ) -> Weight:
        values = dict(entries)
        if len(values) < len(entries) or not set(values) <= {"location", "offset", "length"}:
            raise ValueError(f"tensor {shown(name)} has the keys and values {shown(entries)}")
        if (location := values.get("location")) not in self._data_names:
            raise ValueError(
                f"tensor {shown(name)} has its data in {shown(location)}, "
                f"not in {' or '.join(self._data_names)}"
            )
        # the first tensor decides for all others
        self._data_names = [location]
        offset, length = (
            decimal(values.get(key, str(default)))
            for key, default in (("offset", 0), ("length", size))
        )
        if length != size or offset % ITEM_SIZES[data_type]:
            raise ValueError(f"tensor {shown(name)} takes {size} bytes, not {length} at {offset}")
        return Weight(name, data_type, dims, offset, length)

    def _entry(self, data: object) -> tuple[str, str]:
        entry = self._read(data, "StringStringEntryProto", ENTRY)
        return string_of(entry, "key"), string_of(entry, "value")

    def _values(self, graph: Message, kind: str) -> dict[str, tuple[int, Dims]]:
        """Returns element type and sizes of the graph's inputs or outputs by name."""
        values = {}
        for data in graph.get(kind, []):
            value = self._read(data, "ValueInfoProto", VALUE)
            name = string_of(value, "name")
            if name in values:
                raise ValueError(f"has two values called {shown(name)}")
            values[name] = self._type(value, f"{kind} {shown(name)}")
        return values

    def _type(self, value: Message, label: str) -> tuple[int, Dims]:
        for kind, fields in (("type", TYPE), ("tensor_type", TENSOR_TYPE)):
            if kind not in value:
                raise ValueError(f"{label} is not a tensor")
            value = self._read(value[kind][0], "TypeProto", fields)
        element = integer_of(value, "elem_type")
        if "shape" not in value:
            raise ValueError(f"{label} does not state its number of dimensions")
        shape = self._read(value["shape"][0], "TensorShapeProto", SHAPE)
        dims: list[int | str | None] = []
        for data in shape.get("dim", []):
            dim = self._read(data, "Dimension", DIM)
            if "dim_value" in dim and "dim_param" in dim:
                raise ValueError(f"{label} has a dimension with both a size and a name")
            fixed = integer_of(dim, "dim_value") if "dim_value" in dim else None
            dims.append(fixed if fixed is not None else string_of(dim, "dim_param") or None)
        return element, tuple(dims)
