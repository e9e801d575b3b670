"""Calibration: runs real inputs through the FP32 graphs and measures what every tensor reaches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from lame_runtime.contract.batch import Batch, Floats

from lame_export.forward import MASKED
from lame_export.rewrites.scopes import linear_layers
from lame_export.streaming.attention_blocks import Feeds, needs_blocks
from lame_export.streaming.pieces import BUDGET, Piece, cut
from lame_export.streaming.running import run
from lame_export.streaming.streamed_backend import feature_width

AMAX, CHANNELS, TOKENS = "amax:", "channels:", "tokens:"
"""Prefixes of the outputs that measure a value: largest |x| of all, per channel, per token."""


@dataclass
class Scan:
    """Largest absolute values that calibration inputs reached in one graph."""

    amax: dict[str, float] = field(default_factory=dict)
    """Largest of a tensor, by name of a float value: graph inputs, weights, results of nodes."""
    channels: dict[str, Floats] = field(default_factory=dict)
    """Largest of every channel (last axis), by name of an activation that a linear layer reads."""
    tokens: dict[str, dict[str, Floats]] = field(default_factory=lambda: defaultdict(dict))
    """Largest of every token, by modality of the input and name of such an activation."""

    def ranges(self, percentile: float = 100.0) -> dict[str, float]:
        """Returns the range ±x over which each activation is quantized, by name.

        It is the smallest that `percentile` percent of a modality's tokens stay within, for the
        modality that reaches furthest: one with few tokens counts as much as one with many.
        """
        # a percentile over all tokens together would be that of the modality with the most of them
        ranges: dict[str, float] = {}
        for activations in self.tokens.values():
            for name, largest in activations.items():
                reach = float(np.percentile(largest, percentile))
                ranges[name] = max(ranges.get(name, 0.0), reach)
        return ranges


def scan_batches(
    models: Mapping[str, ir.Model], batches: Mapping[str, Sequence[Batch]]
) -> dict[str, Scan]:
    """Scans both graphs over batches of calibration inputs.

    Args:
        models: FP32 graphs "vision" and "encoder".
        batches: calibration inputs, by modality.

    Returns:
        The scans of "vision" and "encoder".
    """
    feeds: list[Feeds] = []
    modalities: list[str] = []
    for modality, batch in _labeled(batches):
        for group in batch.groups:
            for piece in group.pieces():
                feeds.append(piece.vision_feeds())
                modalities.append(modality)
    vision, outputs = scan(models["vision"], feeds, modalities)
    # both loops walk the batches in the same order, so features come as the encoder needs them
    features = iter(outputs)

    width = feature_width(models["vision"])
    feeds, modalities = [], []
    for modality, batch in _labeled(batches):
        count = sum(len(group.pieces()) for group in batch.groups)
        rows = [next(features)["features"].reshape(-1, width) for _ in range(count)]
        # row 0 of the features is zeros: tokens that are not visual read it
        no_feature = np.zeros((1, width), dtype=np.float32)
        feeds.append(batch.encoder_feeds(np.concatenate([no_feature, *rows])))
        modalities.append(modality)
    encoder, _ = scan(models["encoder"], feeds, modalities)
    return {"vision": vision, "encoder": encoder}


def _labeled(batches: Mapping[str, Sequence[Batch]]) -> Iterator[tuple[str, Batch]]:
    """Yields all batches, each with its modality."""
    for modality, batches_of_one in batches.items():
        for batch in batches_of_one:
            yield modality, batch


def scan(
    model: ir.Model,
    feeds: Sequence[Feeds],
    modalities: Sequence[str] | None = None,
    budget: int = BUDGET,
) -> tuple[Scan, list[Feeds]]:
    """Measures a graph on some inputs.

    The constant that masks scores, and the scores it was written into, are left out: neither
    measures anything, and the constant is half's lowest value, so both would make FP32 islands.

    Args:
        model: an FP32 graph that went through `keep_scopes`.
        feeds: inputs of the runs.
        modalities: modality of each run's inputs; None if there is only one.
        budget: bytes of weights held at a time.

    Returns:
        The scan, and the graph's outputs per run.
    """
    labels = ["all"] * len(feeds) if modalities is None else modalities
    recorder = _Recorder(model)
    recorder.record_inputs(model.graph, feeds, labels)

    def watch(piece: Piece, _: int) -> Callable[[Feeds], None]:
        recorder.record_weights(piece.model.graph)
        _add_measures(piece.model.graph, recorder.activations)
        modality = iter(labels)  # every piece runs over all feeds, in their order
        return lambda values: recorder.record_outputs(values, next(modality))

    names = [value.name or "" for value in model.graph.outputs]
    apart = any(needs_blocks(feed) for feed in feeds)
    pieces = cut(model, budget, attention_apart=apart)
    outputs = run(pieces, feeds, names, watch=watch)
    return recorder.scan(), outputs


class _Recorder:
    """Collects the measurements of all runs of a graph."""

    def __init__(self, model: ir.Model) -> None:
        constants = [_mask_of(node) for node in model.graph]
        self.masks = {constant.name for constant in constants if constant is not None}
        """Names of the constants that mask scores."""
        read = [node.inputs[0] for node in linear_layers(model.graph)]
        self.activations = {value.name or "" for value in read if value is not None}
        """Names of the activations that linear layers read."""
        self._scan = Scan()
        # lists, since a percentile needs all tokens of all runs
        self._tokens: dict[str, dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))

    def record_inputs(
        self, graph: ir.Graph, feeds: Sequence[Feeds], modalities: Sequence[str]
    ) -> None:
        """Measures the graph's float inputs, which no node computes."""
        for value in graph.inputs:
            if value.dtype != ir.DataType.FLOAT:
                continue
            name = value.name or ""
            for feed, modality in zip(feeds, modalities, strict=True):
                self._record(name, feed[name])
                if name in self.activations:
                    size = np.abs(feed[name])
                    channels = size.reshape(-1, size.shape[-1]).max(axis=0)
                    self._record_activation(name, modality, channels, size.max(axis=-1))

    def record_weights(self, graph: ir.Graph) -> None:
        """Measures the float constants of a piece; its weights are read one after the other."""
        # a weight near half's limit makes an island, like an activation
        for name, value in graph.initializers.items():
            is_float = value.dtype == ir.DataType.FLOAT and value.const_value is not None
            if is_float and name not in self.masks:
                assert value.const_value is not None
                self._record(name, value.const_value.numpy())

    def record_outputs(self, values: Feeds, modality: str) -> None:
        """Takes the measures among the outputs of one run of a piece."""
        for key, value in values.items():
            if key.startswith(AMAX):
                self._record(key.removeprefix(AMAX), value)
            elif key.startswith(CHANNELS):
                name = key.removeprefix(CHANNELS)
                self._record_activation(name, modality, value, values[f"{TOKENS}{name}"])

    def scan(self) -> Scan:
        """Returns the measurements of all runs."""
        for modality, activations in self._tokens.items():
            self._scan.tokens[modality] = {
                name: np.concatenate(parts) for name, parts in activations.items()
            }
        return self._scan

    def _record(self, name: str, value: npt.NDArray[Any]) -> None:
        self._scan.amax[name] = max(self._scan.amax.get(name, 0.0), _largest(value))

    def _record_activation(
        self, name: str, modality: str, channels: Floats, per_token: Floats
    ) -> None:
        known = self._scan.channels
        known[name] = np.maximum(known[name], channels) if name in known else channels
        self._tokens[modality][name].append(per_token.reshape(-1))


def _largest(array: npt.NDArray[Any]) -> float:
    """Returns the largest absolute value, without a copy of the array."""
    # `initial` stands in for an array without elements, which has no maximum
    return max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))


def _add_measures(graph: ir.Graph, activations: set[str]) -> None:
    """Adds outputs that measure every float value of the graph, masked scores aside.

    before   node ─ x
    after    node ─ x ─ Abs ─┬ ReduceMax ─────────────────── amax:x
                             ├ ReduceMax(all but the last) ─ channels:x   (activations only)
                             └ ReduceMax(the last axis) ──── tokens:x     (activations only)
    """
    for node in list(graph):  # a copy: nodes are added while it is walked
        if _mask_of(node) is not None:
            continue
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT:
                continue
            axes: dict[str, list[int] | None] = {AMAX: None}
            if value.name in activations and value.shape is not None:
                rank = len(value.shape)
                axes |= {CHANNELS: list(range(rank - 1)), TOKENS: [rank - 1]}
            # right after the node: ONNX Runtime frees a value after its last reader, and measures
            # at the end of the graph would keep all of them alive until then
            graph.insert_after(node, _measures(graph, value, axes))


def _measures(
    graph: ir.Graph, value: ir.Value, axes: Mapping[str, list[int] | None]
) -> list[ir.Node]:
    """Makes the nodes that measure `value` over some axes each, None for all of them."""
    absolute = ir.Node("", "Abs", [value], num_outputs=1)
    nodes = [absolute]
    for prefix, over in axes.items():
        inputs = [absolute.outputs[0]]
        # axes are an input of ReduceMax since opset 18; without it, it reduces all of them
        if over is not None:
            attribute = ir.AttrInt64s("value_ints", over)
            constant = ir.Node("", "Constant", [], [attribute], num_outputs=1)
            nodes.append(constant)
            inputs.append(constant.outputs[0])
        keep = ir.AttrInt64("keepdims", 0)
        largest = ir.Node("", "ReduceMax", inputs, [keep], num_outputs=1)
        output = largest.outputs[0]
        output.name, output.dtype = f"{prefix}{value.name}", ir.DataType.FLOAT
        nodes.append(largest)
        graph.outputs.append(output)
    return nodes


def _mask_of(node: ir.Node) -> ir.Value | None:
    """Returns the constant that a masking `Where` writes; None for any other node."""
    # the Where that mixes vision rows into the tokens chooses between two computed values
    value = node.inputs[2] if node.op_type == "Where" else None
    if value is None or value.const_value is None:
        return None
    return value if np.all(value.const_value.numpy() == np.float32(MASKED)) else None
