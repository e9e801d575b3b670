"""Calibration: real inputs through the FP32 graphs, and the largest absolute value each tensor reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from lame_runtime.backends.base import Batch

from lame_export.forward import MASKED
from lame_export.streamed import BUDGET, Feeds, Piece, cut, feature_width, run


def scan_batches(models: dict[str, ir.Model], batches: list[Batch]) -> dict[str, dict[str, float]]:
    """Amax of the graphs "vision" and "encoder" over batches of calibration inputs, by part and value name."""
    groups = [piece for batch in batches for group in batch.groups for piece in group.pieces()]
    vision, features = scan(models["vision"], [group.vision_feeds() for group in groups])
    width = feature_width(models["vision"])
    feeds, taken = [], 0
    for batch in batches:
        amount = sum(len(group.pieces()) for group in batch.groups)
        mine = [each["features"].reshape(-1, width) for each in features[taken : taken + amount]]
        taken += amount
        feeds.append(batch.encoder_feeds(np.concatenate([np.zeros((1, width), dtype=np.float32), *mine])))
    encoder, _ = scan(models["encoder"], feeds)
    return {"vision": vision, "encoder": encoder}


def scan(model: ir.Model, feeds: Sequence[Feeds], budget: int = BUDGET) -> tuple[dict[str, float], list[Feeds]]:
    """Largest absolute value of every float tensor of a graph: inputs, weights and what nodes compute.

    The mask's constant and the scores it was written into are left out: neither is a measurement.

    Args:
        model: an FP32 graph.
        feeds: inputs of the runs.
        budget: bytes of weights held at a time.

    Returns:
        Amax by value name, and the graph's outputs per run.
    """
    masks = {constant.name for node in model.graph if (constant := _mask_of(node)) is not None}
    amax: dict[str, float] = {}
    for value in model.graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            amax[value.name or ""] = max((_largest(feed[value.name or ""]) for feed in feeds), default=0.0)

    def watch(piece: Piece, _: int) -> Callable[[Feeds], None]:
        for name, value in piece.model.graph.initializers.items():
            if value.dtype == ir.DataType.FLOAT and value.const_value is not None and name not in masks:
                amax[name] = _largest(value.const_value.numpy())
        _add_amax(piece.model)

        def report(found: Feeds) -> None:
            for name, value in found.items():
                if name.startswith(AMAX):
                    key = name.removeprefix(AMAX)
                    amax[key] = max(amax.get(key, 0.0), float(value))

        return report

    outputs = [value.name or "" for value in model.graph.outputs]
    return amax, run(cut(model, budget), feeds, outputs, watch=watch)


def _largest(array: npt.NDArray[Any]) -> float:
    """The largest absolute value, without a copy of the array."""
    return max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))


AMAX = "amax:"


def _add_amax(model: ir.Model) -> None:
    """An output with the largest absolute value of everything the graph's nodes compute in FP32, masked scores aside."""
    graph = model.graph
    for node in [each for each in graph if _mask_of(each) is None]:
        for value in (each for each in node.outputs if each.dtype == ir.DataType.FLOAT):
            absolute = ir.Node("", "Abs", [value], num_outputs=1)
            largest = ir.Node("", "ReduceMax", absolute.outputs, [ir.AttrInt64("keepdims", 0)], num_outputs=1)
            largest.outputs[0].name = f"{AMAX}{value.name}"
            largest.outputs[0].dtype, largest.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([])
            graph.insert_after(node, [absolute, largest])  # at once, or every value would live until the end
            graph.outputs.append(largest.outputs[0])


def _mask_of(node: ir.Node) -> ir.Value | None:
    """The constant that a masking `Where` writes; None for any other node."""
    value = node.inputs[2] if node.op_type == "Where" else None
    if value is None or value.const_value is None or not np.all(value.const_value.numpy() == np.float32(MASKED)):
        return None
    return value
