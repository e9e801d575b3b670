"""Defines the precision fallbacks: what to compute in FP32 if fused kernels give wrong numbers.

    level  name               what changes
    0      as exported        nothing
    1      attention unfused  softmax in FP32; its casts break the pattern that would be fused
    2      more in FP32       also reductions, norms, and products that are added to the residual
    3      FP32               the FP32 graph is built instead

The edits are made on TensorRT's parsed network, so the device needs neither ONNX nor PyTorch.
"""

from __future__ import annotations

from typing import Any

from lame_runtime.backends.tensorrt.plans import AS_EXPORTED

FALLBACK_LEVELS = (AS_EXPORTED, "attention unfused", "more in FP32", "FP32")
"""Names of the levels, as `build.json` records them."""
RESIDUAL_LAYERS = (".o", ".down", ".proj", ".fc2")
"""Endings of the linear layers that add to the residual stream, where values are largest."""


def edit_network(level: int, trt: Any, network: Any) -> None:
    """Widens layers of a parsed FP16 or INT8 network to FP32, in place.

    Levels 0 and 3 change nothing: level 3 builds another graph instead.
    """
    if level not in (1, 2):
        return
    # Listed before the loop, because widening a layer adds cast layers to the network.
    for layer in [network.get_layer(index) for index in range(network.num_layers)]:
        if layer.type == trt.LayerType.SOFTMAX or (level == 2 and _accumulates(trt, layer)):
            _widen_to_fp32(trt, network, layer)


def _accumulates(trt: Any, layer: Any) -> bool:
    """Returns whether a layer reduces in half precision, or its result is added to the residual."""
    if layer.type == trt.LayerType.MATRIX_MULTIPLY:
        # The exporter names nodes by their module's path, as in "blocks.3.down/MatMul".
        return str(layer.name).split("/")[0].endswith(RESIDUAL_LAYERS)
    return bool(layer.type in (trt.LayerType.REDUCE, trt.LayerType.NORMALIZATION))


def _widen_to_fp32(trt: Any, network: Any, layer: Any) -> None:
    """Casts a layer's half inputs to FP32, and its output back to half for the layers after it.

    A strongly typed network computes a layer in the type of its inputs, so the casts are enough.
    """
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    half_inputs = {
        index: value
        for index, value in enumerate(inputs)
        # TensorRT gives None for an optional input that was left out.
        if value is not None and value.dtype == trt.DataType.HALF
    }
    if not half_inputs:
        return
    output = layer.get_output(0)
    # Taken before the cast back is added, because that cast must go on reading the FP32 output.
    readers = _readers(network, output)
    for index, value in half_inputs.items():
        layer.set_input(index, network.add_cast(value, trt.DataType.FLOAT).get_output(0))
    half_output = network.add_cast(output, trt.DataType.HALF).get_output(0)
    for reader, index in readers:
        reader.set_input(index, half_output)


def _readers(network: Any, value: Any) -> list[tuple[Any, int]]:
    """Returns the layers that read a value, each with the index of the input that does."""
    readers = []
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        for index in range(layer.num_inputs):
            other = layer.get_input(index)
            # By name, since the bindings do not promise one Python object per tensor.
            if other is not None and other.name == value.name:
                readers.append((layer, index))
    return readers
