"""Calibration: runs real inputs through the FP32 graphs and measures what every tensor reaches."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.contract.batch import Batch, Floats

from lame_export.quantization.measures import AMAX, CHANNELS, TOKENS, add_measures, mask_of
from lame_export.rewrites.scopes import linear_layers
from lame_export.streaming.attention_blocks import Feeds, needs_blocks
from lame_export.streaming.pieces import BUDGET, cut
from lame_export.streaming.running import StoredPieces
from lame_export.streaming.streamed_backend import feature_width


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


GROUP_TOKENS = 1 << 15
"""Tokens and patches of the batches that one pass over the weights scans: what they hold between
two pieces takes 1 GB in a model with 2 billion parameters."""


def scan_batches(
    models: Mapping[str, ir.Model],
    batches: Iterable[tuple[str, Batch]],
    scratch: Path | None = None,
) -> dict[str, Scan]:
    """Scans both graphs over batches of calibration inputs.

    Args:
        models: FP32 graphs "vision" and "encoder".
        batches: calibration inputs, each batch with its modality; read as they are needed.
        scratch: folder for temporary files, which take as much space as the weights in FP32; None
            takes the system's.

    Returns:
        The scans of "vision" and "encoder".
    """
    width = feature_width(models["vision"])
    no_feature = np.zeros((1, width), dtype=np.float32)
    vision, encoder = (GraphScan(models[part], scratch=scratch) for part in PARTS)
    with vision, encoder:
        for group in _groups(batches):
            pieces = [
                (modality, piece)
                for modality, batch in group
                for piece_group in batch.groups
                for piece in piece_group.pieces()
            ]
            outputs = vision.run(
                [piece.vision_feeds() for _, piece in pieces], [modality for modality, _ in pieces]
            )
            # in the order of the batches, so that each takes those of its own runs
            features = iter(output["features"].reshape(-1, width) for output in outputs)
            feeds = []
            for _, batch in group:
                runs = sum(len(part.pieces()) for part in batch.groups)
                # row 0 is zeros: tokens that are not visual read it
                rows = [no_feature, *itertools.islice(features, runs)]
                feeds.append(batch.encoder_feeds(np.concatenate(rows)))
            encoder.run(feeds, [modality for modality, _ in group])
        return {"vision": vision.result(), "encoder": encoder.result()}


def _groups(batches: Iterable[tuple[str, Batch]]) -> Iterator[list[tuple[str, Batch]]]:
    """Yields consecutive batches of up to `GROUP_TOKENS` tokens and patches together."""
    group: list[tuple[str, Batch]] = []
    held = 0
    for modality, batch in batches:
        size = batch.input_ids.size + sum(part.pictures * part.patches for part in batch.groups)
        if group and held + size > GROUP_TOKENS:
            yield group
            group, held = [], 0
        group.append((modality, batch))
        held += size
    if group:
        yield group


class GraphScan:
    """Measures a graph on inputs, which may come in several calls.

    The constant that masks scores, and the scores it was written into, are left out: neither
    measures anything, and the constant is half's lowest value, so both would make FP32 islands.

    Args:
        model: an FP32 graph that went through `keep_scopes`.
        budget: bytes of weights held at a time.
        scratch: folder for temporary files; None takes the system's.
    """

    def __init__(
        self, model: ir.Model, budget: int = BUDGET, *, scratch: Path | None = None
    ) -> None:
        self._model, self._budget, self._scratch = model, budget, scratch
        self._recorder = _Recorder(model)
        self._names = [value.name or "" for value in model.graph.outputs]
        # with attention in blocks and at once; each is made when inputs first need it
        self._pieces: dict[bool, StoredPieces] = {}

    def run(self, feeds: Sequence[Feeds], modalities: Sequence[str]) -> list[Feeds]:
        """Measures some runs, and returns the graph's outputs per run.

        Args:
            feeds: inputs of the runs.
            modalities: modality of each run's inputs.
        """
        if not feeds:
            return []
        self._recorder.record_inputs(self._model.graph, feeds, modalities)
        apart = any(needs_blocks(feed) for feed in feeds)
        if apart not in self._pieces:
            self._pieces[apart] = self._measured_pieces(apart)
        return self._pieces[apart].run(
            feeds,
            self._names,
            lambda number, values: self._recorder.record_outputs(values, modalities[number]),
        )

    def result(self) -> Scan:
        """Returns the measurements of all runs."""
        return self._recorder.scan()

    def _measured_pieces(self, apart: bool) -> StoredPieces:
        pieces = cut(self._model, self._budget, attention_apart=apart)
        for piece in pieces:
            self._recorder.record_weights(piece.model.graph)
            add_measures(piece.model.graph, self._recorder.activations)
        return StoredPieces(pieces, self._scratch)

    def __enter__(self) -> GraphScan:
        return self

    def __exit__(self, *_: object) -> None:
        for pieces in self._pieces.values():
            pieces.close()


def scan(
    model: ir.Model,
    feeds: Sequence[Feeds],
    modalities: Sequence[str] | None = None,
    budget: int = BUDGET,
) -> tuple[Scan, list[Feeds]]:
    """Measures a graph on some inputs; returns the scan, and the graph's outputs per run.

    Args:
        model: an FP32 graph that went through `keep_scopes`.
        feeds: inputs of the runs.
        modalities: modality of each run's inputs; None if there is only one.
        budget: bytes of weights held at a time.
    """
    with GraphScan(model, budget) as graph:
        outputs = graph.run(feeds, ["all"] * len(feeds) if modalities is None else modalities)
        return graph.result(), outputs


class _Recorder:
    """Collects the measurements of all runs of a graph."""

    def __init__(self, model: ir.Model) -> None:
        constants = [mask_of(node) for node in model.graph]
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
