"""The network that the ONNX parser fills, and the optimization profiles of a build."""

from __future__ import annotations

from typing import Any

import onnx

from recording_gpu.cudart import GpuMisuseError
from recording_gpu.enums import ONNX, DataType, ILogger, LayerType

Dims = tuple[int, ...]

LAYERS = {
    "Softmax": LayerType.SOFTMAX,
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "ReduceMean": LayerType.REDUCE,
    "LayerNormalization": LayerType.NORMALIZATION,
    "Cast": LayerType.CAST,
}
"""Layer types by ONNX operator."""


class ITensor:
    """A tensor of a network."""

    def __init__(self, name: str, shape: Dims, dtype: DataType, names: list[str]) -> None:
        self.name, self.shape, self.dtype, self._names = name, shape, dtype, names

    def get_dimension_name(self, index: int) -> str:
        """Returns a dimension's name in the file; empty if it has none."""
        return self._names[index]


class ILayer:
    """A node; its outputs have the type of its inputs, as in a strongly typed network."""

    def __init__(
        self, name: str, kind: LayerType, inputs: list[ITensor | None], outputs: list[ITensor]
    ) -> None:
        self.name, self.type, self._inputs, self._outputs = name, kind, inputs, outputs

    @property
    def num_inputs(self) -> int:
        """Number of inputs; optional ones that are left out are counted."""
        return len(self._inputs)

    def get_input(self, index: int) -> ITensor | None:
        """Returns an input; None if it is left out."""
        return self._inputs[index]

    def set_input(self, index: int, tensor: ITensor) -> None:
        """Replaces an input."""
        self._inputs[index] = tensor
        if self.type not in (LayerType.ELEMENTWISE, LayerType.CAST):
            for output in self._outputs:
                output.dtype = tensor.dtype

    def _check(self) -> None:
        kinds = {value.dtype for value in self._inputs if value is not None} & {
            DataType.FLOAT,
            DataType.HALF,
        }
        if len(kinds) > 1:
            raise GpuMisuseError(f"{self.name}: its inputs are of two types")

    @property
    def num_outputs(self) -> int:
        """Number of outputs that have a known type."""
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor:
        """Returns an output."""
        return self._outputs[index]


class INetworkDefinition:
    """A network; `OnnxParser` fills it."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.path: str | None = None
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []

    @property
    def num_inputs(self) -> int:
        """Number of the graph's inputs."""
        return len(self._inputs)

    @property
    def num_layers(self) -> int:
        """Number of layers: one for each node of the file, and those that were added."""
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        """Returns a layer."""
        return self._layers[index]

    @property
    def num_outputs(self) -> int:
        """Number of outputs: the graph's, and those that were marked."""
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor:
        """Returns an output."""
        return self._outputs[index]

    def mark_output(self, tensor: ITensor) -> None:
        """Makes a value an output."""
        if tensor.name in [output.name for output in self._outputs]:
            raise GpuMisuseError(f"{tensor.name} is an output already")
        self._outputs.append(tensor)

    def add_cast(self, input: ITensor, to_type: DataType) -> ILayer:
        """Adds a layer that changes a value's type."""
        name = f"(Unnamed Layer* {len(self._layers)}) [Cast]"
        output = ITensor(f"{name}_output", input.shape, to_type, input._names)
        layer = ILayer(name, LayerType.CAST, [input], [output])
        self._layers.append(layer)
        return layer

    def get_input(self, index: int) -> ITensor:
        """Returns an input."""
        return self._inputs[index]


class IParserError:
    """The reason why a graph was not parsed."""

    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        """Returns the reason in words."""
        return self._text


class OnnxParser:
    """Reads a graph into a network."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[IParserError] = []
        self._logger = logger

    @property
    def num_errors(self) -> int:
        """Number of errors."""
        return len(self._errors)

    def get_error(self, index: int) -> IParserError:
        """Returns an error."""
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        """Reads a file; returns whether that was possible."""
        try:
            graph = onnx.load(model, load_external_data=False).graph
        except Exception as error:  # the real parser reports any failure as an error of its own
            self._errors.append(IParserError(str(error).splitlines()[0]))
            return False
        values = {
            value.name: _tensor(value) for value in (*graph.value_info, *graph.input, *graph.output)
        }
        for weight in graph.initializer:
            dtype = ONNX.get(weight.data_type, DataType.INT8)
            names = [""] * len(weight.dims)
            values[weight.name] = ITensor(weight.name, tuple(weight.dims), dtype, names)
        network = self._network
        network.path = model
        network._inputs = [values[value.name] for value in graph.input]
        network._outputs = [values[value.name] for value in graph.output]
        network._layers = [
            ILayer(
                node.name,
                LAYERS.get(node.op_type, LayerType.ELEMENTWISE),
                [values.get(name) for name in node.input],
                [values[name] for name in node.output if name in values],
            )
            for node in graph.node
        ]
        return True


def _tensor(value: Any) -> ITensor:
    kind = value.type.tensor_type
    shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
    return ITensor(
        value.name,
        shape,
        ONNX.get(kind.elem_type, DataType.INT8),
        [dim.dim_param for dim in kind.shape.dim],
    )


class IOptimizationProfile:
    """Ranges of the inputs' shapes."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        """Sets the range of an input."""
        if not all(low <= usual <= high for low, usual, high in zip(min, opt, max, strict=True)):
            raise ValueError(f"{input}: {min} ≤ {opt} ≤ {max} does not hold")
        self.shapes[input] = [tuple(min), tuple(opt), tuple(max)]
