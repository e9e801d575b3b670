"""Rungs of care: what to compute otherwise where a device's fused kernels give wrong numbers.

    0  the graph as it was exported
    1  attention unfused: its softmax in FP32, since a cast between the two products breaks the pattern
    2  more in FP32: also the products that are added to the residual, and what is still reduced in half
    3  the FP32 graph

Edits are made on TensorRT's network, so that the device needs neither ONNX nor PyTorch.
"""

from __future__ import annotations

from typing import Any

from lame_runtime.plans import AS_EXPORTED

INTO_RESIDUAL = (".o", ".down", ".proj", ".fc2")
"""Names of the linear layers whose results are added to the residual, where values are largest."""
RUNGS = (AS_EXPORTED, "attention unfused", "more in FP32", "FP32")


def edit(rung: int, trt: Any, network: Any) -> None:
    """Changes a parsed FP16 or INT8 network in place; rungs 0 and 3 change nothing, as 3 is another graph."""
    if rung not in (1, 2):
        return
    for layer in [network.get_layer(index) for index in range(network.num_layers)]:
        if layer.type == trt.LayerType.SOFTMAX or (rung == 2 and _is_sum(trt, layer)):
            _in_fp32(trt, network, layer)


def _is_sum(trt: Any, layer: Any) -> bool:
    if layer.type == trt.LayerType.MATRIX_MULTIPLY:
        return str(layer.name).split("/")[0].endswith(INTO_RESIDUAL)
    return bool(layer.type in (trt.LayerType.REDUCE, trt.LayerType.NORMALIZATION))


def _in_fp32(trt: Any, network: Any, layer: Any) -> None:
    """Casts a layer's half inputs to FP32 and its outputs back for whoever reads them."""
    given = [layer.get_input(index) for index in range(layer.num_inputs)]
    halves = [index for index, value in enumerate(given) if value is not None and value.dtype == trt.DataType.HALF]
    if not halves:
        return
    output = layer.get_output(0)
    readers = _readers(network, output)
    for index in halves:
        layer.set_input(index, network.add_cast(layer.get_input(index), trt.DataType.FLOAT).get_output(0))
    back = network.add_cast(output, trt.DataType.HALF).get_output(0)
    for reader, index in readers:
        reader.set_input(index, back)


def _readers(network: Any, value: Any) -> list[tuple[Any, int]]:
    """Layers that read a value, and as which input."""
    found = []
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        for index in range(layer.num_inputs):
            given = layer.get_input(index)
            if given is not None and given.name == value.name:
                found.append((layer, index))
    return found
