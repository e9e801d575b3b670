"""Runs a graph of any size in little memory: its nodes in runs, each with its weights alone, by ONNX Runtime on the CPU.

A graph in memory holds its weights lazily (see `passes.trace`). It is cut, in the order of its nodes, where the weights
so far exceed a budget; every piece becomes a small model on the disk, runs over all inputs, and is dropped. Small
graphs are one piece, whose session is kept.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from lame_runtime.backends.base import Backend, Batch, Floats, PictureGroup
from lame_runtime.backends.ort import open_session, run_session

BUDGET = 128 << 20
"""Bytes of weights in one piece; a single larger weight is a piece of its own."""
Feeds = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Piece:
    """Nodes that run together."""

    model: ir.Model
    inputs: list[str]
    outputs: list[str]


def copy_of(model: ir.Model) -> ir.Model:
    """The model anew; only its weights are shared. (`Model.clone` shares the values' types, which passes change.)"""
    copy = model.clone()
    graph = copy.graph
    for value in (*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)):
        if value.dtype is not None:
            value.type = ir.TensorType(value.dtype)
    return copy


def cut(model: ir.Model, budget: int = BUDGET) -> list[Piece]:
    """The graph's nodes in pieces whose weights stay within `budget` bytes."""
    sizes = []
    seen: set[str] = set()
    for node in model.graph:
        weights = {value.name or "": value for value in node.inputs if value is not None and value.is_initializer()}
        sizes.append(sum(value.const_value.nbytes for name, value in weights.items() if name not in seen and value.const_value is not None))
        seen |= set(weights)
    starts, held = [0], 0
    for index, size in enumerate(sizes):
        if held and held + size > budget:
            starts.append(index)
            held = 0
        held += size
    bounds = [*starts, len(sizes)]
    return [_piece(model, start, stop) for start, stop in itertools.pairwise(bounds)]


def _piece(model: ir.Model, start: int, stop: int) -> Piece:
    """Nodes `start` to `stop` as a model of their own; weights are shared, not copied."""
    copy = copy_of(model)
    graph = copy.graph
    nodes = list(graph)
    inside = nodes[start:stop]
    made = {value for node in inside for value in node.outputs}
    wanted = set(graph.outputs) | {value for node in nodes[stop:] for value in node.inputs if value is not None}
    outputs = [value for node in inside for value in node.outputs if value in wanted]
    inputs: list[ir.Value] = []
    for node in inside:
        for value in node.inputs:
            if value is not None and value not in made and not value.is_initializer() and value not in inputs:
                inputs.append(value)
    graph.outputs.clear()
    for index, value in enumerate(inputs):
        if value.producer() is None:
            continue
        fresh = ir.Value(name=value.name, shape=value.shape, type=value.type)
        for user, place in list(value.uses()):
            if user in inside:
                user.replace_input_with(place, fresh)
        inputs[index] = fresh
    for node in reversed([*nodes[:start], *nodes[stop:]]):
        if not any(output.uses() for output in node.outputs):
            graph.remove(node, safe=True)
    for node in [each for each in reversed(list(graph)) if each not in inside]:
        graph.remove(node, safe=True)
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.outputs.extend(outputs)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return Piece(copy, [value.name or "" for value in inputs], [value.name or "" for value in outputs])


def run(
    pieces: Sequence[Piece],
    feeds: Sequence[Feeds],
    wanted: Sequence[str],
    *,
    watch: Callable[[Piece, Any], Callable[[Feeds], None]] | None = None,
    optimise: bool = True,
) -> list[Feeds]:
    """Runs every piece over all feeds before the next one is loaded.

    Args:
        pieces: from `cut`.
        feeds: the graph's inputs, per run.
        wanted: names of the outputs to return.
        watch: called with each piece before it is loaded; may add outputs to it. What it returns is called with
            all outputs of each run.
        optimise: let ONNX Runtime fuse and rewrite.
    """
    alive = [dict(feed) for feed in feeds]
    for index, piece in enumerate(pieces):
        report = None if watch is None else watch(piece, index)
        later = {name for each in pieces[index + 1 :] for name in each.inputs} | set(wanted)
        with tempfile.TemporaryDirectory() as scratch:
            lean = len(pieces) > 1
            session = load(piece.model, Path(scratch), optimise and not lean, lean=lean)
            for values in alive:
                found = run_session(session, {name: values[name] for name in piece.inputs})
                if report is not None:
                    report(found)
                values.update({name: found[name] for name in piece.outputs})
                for name in [name for name in values if name not in later]:
                    del values[name]
            del session
        _give_back()
    return alive


def _give_back() -> None:
    """Returns freed memory to the system, where the C library can: activations of many sizes leave its heap full of holes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def load(model: ir.Model, scratch: Path, optimise: bool, *, lean: bool = False) -> Any:
    """An ONNX Runtime session; the weights are written to the disk one by one and mapped from there."""
    path = scratch / "piece.onnx"
    ir.save(model, path, external_data="piece.onnx.data")
    return open_session(path, optimise=optimise, lean=lean)


def feature_width(vision: ir.Model) -> int:
    """W, the width of a feature row that the vision graph gives."""
    shape = vision.graph.outputs[0].shape
    assert shape is not None
    width = shape[-1]
    assert isinstance(width, int)
    return width


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def physical_memory() -> int:
    """Bytes of memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class StreamedBackend(Backend):
    """The two graphs behind the runtime's seam, whatever their size.

    Args:
        vision: in memory.
        encoder: in memory.
        optimise: let ONNX Runtime fuse and rewrite; False runs the nodes as they are written.
        keep: bytes of weights up to which all sessions stay loaded; None takes an eighth of the machine's memory.
    """

    def __init__(self, vision: ir.Model, encoder: ir.Model, *, optimise: bool = True, keep: int | None = None) -> None:
        self.name = "onnxruntime, streamed"
        keep = physical_memory() // 8 if keep is None else keep
        both = {"vision": vision, "encoder": encoder}
        self._pieces = {part: cut(model, keep if weight_bytes(model) <= keep else BUDGET) for part, model in both.items()}
        self._outputs = {"vision": vision.graph.outputs[0].name or "", "encoder": encoder.graph.outputs[0].name or ""}
        self.width = feature_width(vision)
        self.optimise = optimise
        self._scratch = tempfile.TemporaryDirectory()
        self._sessions = {part: self._open(part) for part, pieces in self._pieces.items() if len(pieces) == 1}

    def _open(self, part: str) -> Any:
        folder = Path(self._scratch.name) / part
        folder.mkdir()
        return load(self._pieces[part][0].model, folder, self.optimise)

    def run_all(self, part: str, feeds: Sequence[Feeds]) -> list[Floats]:
        """The part's output for each of the feeds."""
        name = self._outputs[part]
        if part in self._sessions:
            return [run_session(self._sessions[part], feed)[name] for feed in feeds]
        return [values[name] for values in run(self._pieces[part], feeds, [name], optimise=self.optimise)]

    def vision(self, group: PictureGroup) -> Floats:
        """See `Backend.vision`."""
        return self.run_all("vision", [group.vision_feeds()])[0]

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """See `Backend.encoder`."""
        return self.run_all("encoder", [batch.encoder_feeds(features_FD)])[0]

    def features(self, batch: Batch) -> Floats:
        """See `Backend.features`; all of the batch's groups in one pass over the weights."""
        pieces = [piece for group in batch.groups for piece in group.pieces()]
        found = self.run_all("vision", [piece.vision_feeds() for piece in pieces]) if pieces else []
        nothing = np.zeros((1, self.width), dtype=np.float32)
        return np.concatenate([nothing, *(each.reshape(-1, self.width) for each in found)])

    def close(self) -> None:
        """Drops sessions and scratch files."""
        self._sessions.clear()
        self._scratch.cleanup()
