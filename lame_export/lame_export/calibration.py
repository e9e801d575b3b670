"""Calibration: real inputs through the FP32 graphs, and how far each tensor, channel and token reached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from lame_runtime.backends.base import Batch

from lame_export.forward import MASKED
from lame_export.passes.int8 import linear_layers
from lame_export.streamed import BUDGET, Feeds, Piece, cut, feature_width, run

Floats = npt.NDArray[np.float32]


@dataclass
class Scan:
    """What calibration inputs reached in one graph."""

    amax: dict[str, float] = field(default_factory=dict)
    """The largest absolute value, by name of a float value: inputs, weights and what nodes compute."""
    channels: dict[str, Floats] = field(default_factory=dict)
    """The same for every channel (last axis), by name of what a linear layer reads."""
    tokens: dict[str, dict[str, Floats]] = field(default_factory=lambda: defaultdict(dict))
    """The same for every token, by modality of the input and name of what a linear layer reads."""

    def ranges(self, percentile: float = 100.0) -> dict[str, float]:
        """What activations are quantised over: per modality that many percent of the tokens stay within it.

        A modality with few tokens counts as much as one with many: the largest of the modalities is taken.
        """
        found: dict[str, float] = {}
        for measured in self.tokens.values():
            for name, largest in measured.items():
                found[name] = max(found.get(name, 0.0), float(np.percentile(largest, percentile)))
        return found


def scan_batches(models: Mapping[str, ir.Model], batches: Mapping[str, Sequence[Batch]]) -> dict[str, Scan]:
    """Scans the graphs "vision" and "encoder" over batches of calibration inputs, by modality."""
    groups = [
        (modality, piece) for modality, some in batches.items() for batch in some for group in batch.groups for piece in group.pieces()
    ]
    vision, outputs = scan(models["vision"], [piece.vision_feeds() for _, piece in groups], [modality for modality, _ in groups])
    width = feature_width(models["vision"])
    features = iter(outputs)
    feeds, modalities = [], []
    for modality, some in batches.items():
        for batch in some:
            amount = sum(len(group.pieces()) for group in batch.groups)
            mine = [next(features)["features"].reshape(-1, width) for _ in range(amount)]
            feeds.append(batch.encoder_feeds(np.concatenate([np.zeros((1, width), dtype=np.float32), *mine])))
            modalities.append(modality)
    return {"vision": vision, "encoder": scan(models["encoder"], feeds, modalities)[0]}


def scan(
    model: ir.Model, feeds: Sequence[Feeds], modalities: Sequence[str] | None = None, budget: int = BUDGET
) -> tuple[Scan, list[Feeds]]:
    """Measures a graph on some inputs.

    The mask's constant and the scores it was written into are left out: neither is a measurement.

    Args:
        model: an FP32 graph.
        feeds: inputs of the runs.
        modalities: what kind of input each run is; None for one kind.
        budget: bytes of weights held at a time.

    Returns:
        What was measured, and the graph's outputs per run.
    """
    modalities = ["all"] * len(feeds) if modalities is None else modalities
    masks = {constant.name for node in model.graph if (constant := _mask_of(node)) is not None}
    read = {node.inputs[0].name or "" for node in linear_layers(model.graph) if node.inputs[0] is not None}
    found = Scan()
    tokens: dict[str, dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))

    def note(name: str, value: npt.NDArray[Any]) -> None:
        found.amax[name] = max(found.amax.get(name, 0.0), _largest(value))

    def watch_activation(name: str, modality: str, channels: Floats, per_token: Floats) -> None:
        found.channels[name] = np.maximum(found.channels[name], channels) if name in found.channels else channels
        tokens[modality][name].append(per_token.reshape(-1))

    for value in model.graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            name = value.name or ""
            for feed, modality in zip(feeds, modalities, strict=True):
                note(name, feed[name])
                if name in read:
                    size = np.abs(feed[name])
                    watch_activation(name, modality, size.reshape(-1, size.shape[-1]).max(axis=0), size.max(axis=-1))

    def watch(piece: Piece, _: int) -> Callable[[Feeds], None]:
        for name, value in piece.model.graph.initializers.items():
            if value.dtype == ir.DataType.FLOAT and value.const_value is not None and name not in masks:
                note(name, value.const_value.numpy())
        _add_measures(piece.model, read)
        kinds = iter(modalities)

        def report(values: Feeds) -> None:
            modality = next(kinds)
            for key, value in values.items():
                if key.startswith(AMAX):
                    note(key.removeprefix(AMAX), value)
                elif key.startswith(CHANNELS):
                    name = key.removeprefix(CHANNELS)
                    watch_activation(name, modality, value, values[f"{TOKENS}{name}"])

        return report

    outputs = run(cut(model, budget), feeds, [value.name or "" for value in model.graph.outputs], watch=watch)
    for modality, by_name in tokens.items():
        found.tokens[modality] = {name: np.concatenate(parts) for name, parts in by_name.items()}
    return found, outputs


def _largest(array: npt.NDArray[Any]) -> float:
    """The largest absolute value, without a copy of the array."""
    return max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))


AMAX, CHANNELS, TOKENS = "amax:", "channels:", "tokens:"


def _add_measures(model: ir.Model, read: set[str]) -> None:
    """Outputs with the largest absolute values of what the graph's nodes compute in FP32, masked scores aside."""
    graph = model.graph
    for node in [each for each in graph if _mask_of(each) is None]:
        for value in (each for each in node.outputs if each.dtype == ir.DataType.FLOAT):
            absolute = ir.Node("", "Abs", [value], num_outputs=1)
            wanted: dict[str, list[int] | None] = {AMAX: None}
            if value.name in read and value.shape is not None:
                rank = len(value.shape)
                wanted |= {CHANNELS: list(range(rank - 1)), TOKENS: [rank - 1]}
            nodes = [absolute]
            for prefix, axes in wanted.items():
                inputs = [absolute.outputs[0]]
                if axes is not None:
                    constant = ir.Node("", "Constant", [], [ir.AttrInt64s("value_ints", axes)], num_outputs=1)
                    nodes.append(constant)
                    inputs.append(constant.outputs[0])
                largest = ir.Node("", "ReduceMax", inputs, [ir.AttrInt64("keepdims", 0)], num_outputs=1)
                output = largest.outputs[0]
                output.name, output.dtype = f"{prefix}{value.name}", ir.DataType.FLOAT
                nodes.append(largest)
                graph.outputs.append(output)
            graph.insert_after(node, nodes)  # at once, or every value would live until the end


def _mask_of(node: ir.Node) -> ir.Value | None:
    """The constant that a masking `Where` writes; None for any other node."""
    value = node.inputs[2] if node.op_type == "Where" else None
    if value is None or value.const_value is None or not np.all(value.const_value.numpy() == np.float32(MASKED)):
        return None
    return value
