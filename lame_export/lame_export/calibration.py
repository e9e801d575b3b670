"""Calibration: real inputs through the FP32 graphs, and the largest absolute value each tensor reached."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from lame_runtime.backends.base import Batch
from lame_runtime.backends.ort import OrtBackend

from lame_export.forward import MASKED


def scan_batches(folder: Path, batches: list[Batch]) -> tuple[dict[str, float], dict[str, float]]:
    """Amax of the vision and of the encoder graph in `folder` over batches of calibration inputs."""
    backend = OrtBackend(folder / "vision.fp32.onnx", folder / "encoder.fp32.onnx", "CPUExecutionProvider")
    groups = [group for batch in batches for group in batch.groups]
    vision = scan(
        folder / "vision.fp32.onnx",
        (group.vision_feeds() for group in groups),
    )
    encoder = scan(folder / "encoder.fp32.onnx", (batch.encoder_feeds(backend.features(batch)) for batch in batches))
    return vision, encoder


def scan(path: Path, feeds: Iterable[dict[str, np.ndarray[Any, Any]]]) -> dict[str, float]:
    """Largest absolute value of every float tensor of a graph: inputs, weights and what nodes compute.

    The mask's constant and the scores it was written into are left out: neither is a measurement.

    Args:
        path: an FP32 graph.
        feeds: inputs of the runs.

    Returns:
        amax by value name.
    """
    model = ir.load(path)
    masking = {node: constant for node in model.graph if (constant := _mask_of(node)) is not None}
    amax = {
        name: float(np.abs(value.const_value.numpy()).max(initial=0.0))
        for name, value in model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None and value not in masking.values()
    }
    watched = [value for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT]
    watched += [value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT and node not in masking]
    model.graph.outputs.clear()
    for value in watched:
        absolute = ir.Node("", "Abs", [value], num_outputs=1)
        largest = ir.Node("", "ReduceMax", absolute.outputs, [ir.AttrInt64("keepdims", 0)], num_outputs=1)
        largest.outputs[0].name = f"amax:{value.name}"
        largest.outputs[0].dtype, largest.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([])
        model.graph.extend([absolute, largest])
        model.graph.outputs.append(largest.outputs[0])
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "scan.onnx"
        ir.save(model, target, external_data="scan.onnx.data")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
        names = [value.name or "" for value in watched]
        for feed in feeds:
            for name, value in zip(names, session.run(None, feed), strict=True):
                amax[name] = max(amax.get(name, 0.0), float(value))
    return amax


def _mask_of(node: ir.Node) -> ir.Value | None:
    """The constant that a masking `Where` writes; None for any other node."""
    value = node.inputs[2] if node.op_type == "Where" else None
    if value is None or value.const_value is None or not np.all(value.const_value.numpy() == np.float32(MASKED)):
        return None
    return value
