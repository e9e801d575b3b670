"""Runs graphs of any size in little memory, on ONNX Runtime's CPU provider.

A graph in memory holds its weights lazily (see `forward.trace`). It is cut, in the order of its
nodes, into pieces whose weights stay within a budget. Every piece becomes a small model on the
disk, runs over all inputs, and is dropped. A graph that is small enough is one piece, whose session
is kept.
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
from lame_runtime.backends.base import Backend
from lame_runtime.backends.onnxruntime import open_session, run_session
from lame_runtime.contract.batch import Batch, Floats, PictureGroup

from lame_export.rewrites.nodes import drop_unused_initializers, width_of

BUDGET = 128 << 20
"""Bytes of weights in one piece; a single larger weight is a piece of its own."""
KEPT_FRACTION = 8
"""A session stays loaded if its weights take at most 1/8 of the machine's memory."""
Feeds = dict[str, np.ndarray[Any, Any]]
"""Arrays by name, for the inputs or the outputs of one run."""


@dataclass(frozen=True)
class Piece:
    """Consecutive nodes of a graph as a model of their own."""

    model: ir.Model
    inputs: list[str]
    """Names of graph inputs and of results of earlier pieces."""
    outputs: list[str]
    """Names of graph outputs and of results that later pieces read."""


Watch = Callable[[Piece, int], Callable[[Feeds], None]]
"""Called with each piece and its number before it is loaded; may add outputs to it.

Returns a function that is called with all outputs of each run, in the order of the feeds.
"""


def copy_of(model: ir.Model) -> ir.Model:
    """Copies a model, so that rewriting the copy leaves the original alone; weights are shared."""
    copy = model.clone()  # not a deep copy: the weights' tensors are the same objects
    graph = copy.graph
    results = (output for node in graph for output in node.outputs)
    # `Model.clone` shares the types of values, which typing for half precision changes in place
    for value in (*graph.inputs, *graph.initializers.values(), *results):
        if value.dtype is not None:
            value.type = ir.TensorType(value.dtype)
    return copy


def cut(model: ir.Model, budget: int = BUDGET) -> list[Piece]:
    """Cuts a graph into pieces whose weights stay within `budget` bytes each."""
    sizes = _new_weight_bytes(model)
    # at least one node to a piece, however large its weight
    starts, held = [0], 0
    for index, size in enumerate(sizes):
        if held and held + size > budget:
            starts.append(index)
            held = 0
        held += size
    bounds = [*starts, len(sizes)]
    return [_piece(model, start, stop) for start, stop in itertools.pairwise(bounds)]


def _new_weight_bytes(model: ir.Model) -> list[int]:
    """Returns, for each node, the bytes of the weights that it is the first to read."""
    # counted once, although a piece that reads a weight of an earlier one holds it, too: the large
    # ones, of linear layers and the token table, have a single reader
    sizes = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        weights = {value for value in node.inputs if value is not None and value.is_initializer()}
        tensors = [value.const_value for value in weights - seen]
        sizes.append(sum(tensor.nbytes for tensor in tensors if tensor is not None))
        seen |= weights
    return sizes


def _piece(model: ir.Model, start: int, stop: int) -> Piece:
    """Makes a model of nodes `start` to `stop`; weights are shared, not copied."""
    copy = copy_of(model)
    graph = copy.graph
    nodes = list(graph)
    inside = nodes[start:stop]
    outputs = _outputs(graph, inside, nodes[stop:])
    # no longer outputs of the model: a node whose result is one cannot be removed
    graph.outputs.clear()
    inputs = [_as_input(value, inside) for value in _inputs(inside)]
    # from the last to the first, so that no node is removed before those that read it
    for node in reversed([*nodes[:start], *nodes[stop:]]):
        graph.remove(node, safe=True)
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.outputs.extend(outputs)
    drop_unused_initializers(graph)
    return Piece(
        copy, [value.name or "" for value in inputs], [value.name or "" for value in outputs]
    )


def _outputs(graph: ir.Graph, inside: list[ir.Node], later: list[ir.Node]) -> list[ir.Value]:
    """Returns the values of a piece that later nodes read or that the graph returns."""
    read = {value for node in later for value in node.inputs if value is not None}
    read |= set(graph.outputs)
    return [value for node in inside for value in node.outputs if value in read]


def _inputs(inside: list[ir.Node]) -> list[ir.Value]:
    """Returns the values that a piece reads but does not compute, weights aside, in order."""
    computed = {value for node in inside for value in node.outputs}
    read = [value for node in inside for value in node.inputs if value is not None]
    return [
        value
        for value in dict.fromkeys(read)
        if value not in computed and not value.is_initializer()
    ]


def _as_input(value: ir.Value, inside: list[ir.Node]) -> ir.Value:
    """Returns `value` if it is a graph input, or a fresh one that the piece reads in its place."""
    if value.producer() is None:
        return value
    # `value` is the result of a node that leaves the copy, and would be left without a producer
    fresh = ir.Value(name=value.name, shape=value.shape, type=value.type)
    members = set(inside)
    for user, index in list(value.uses()):
        if user in members:
            user.replace_input_with(index, fresh)
    return fresh


def run(
    pieces: Sequence[Piece],
    feeds: Sequence[Feeds],
    outputs: Sequence[str],
    *,
    watch: Watch | None = None,
    optimize: bool = True,
) -> list[Feeds]:
    """Runs every piece over all feeds before the next one is loaded.

    Args:
        pieces: pieces of one graph, from `cut`.
        feeds: the graph's inputs, per run.
        outputs: names of the graph's outputs to return.
        watch: looks at each piece and at its runs; see `Watch`.
        optimize: let ONNX Runtime fuse and rewrite. Several pieces are never optimized, so that
            their weights stay mapped from the disk.

    Returns:
        The outputs, per run.
    """
    # values that later pieces need, per run: at first the feeds, then results of earlier pieces
    states = [dict(feed) for feed in feeds]
    for index, piece in enumerate(pieces):
        report = None if watch is None else watch(piece, index)
        needed = {name for later in pieces[index + 1 :] for name in later.inputs} | set(outputs)
        with tempfile.TemporaryDirectory() as scratch:
            is_cut = len(pieces) > 1
            session = load(piece.model, Path(scratch), optimize and not is_cut, lean=is_cut)
            for state in states:
                results = run_session(session, {name: state[name] for name in piece.inputs})
                if report is not None:
                    report(results)
                state.update({name: results[name] for name in piece.outputs})
                for name in state.keys() - needed:
                    del state[name]
            # the session maps the weights from files of the folder that is about to be removed
            del session
        _return_freed_memory()
    return states


def _return_freed_memory() -> None:
    """Returns freed memory to the system, if the C library can."""
    # activations of many sizes leave the heap full of holes, which count as this process's memory
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def load(model: ir.Model, scratch: Path, optimize: bool, *, lean: bool = False) -> Any:
    """Opens an ONNX Runtime session on a model in memory.

    Args:
        model: the model; its weights are written to the disk one by one and mapped from there.
        scratch: an empty folder, to be kept as long as the session is.
        optimize: let ONNX Runtime fuse and rewrite.
        lean: see `open_session`.
    """
    # beside the graph, since a protobuf message, and so an ONNX file, ends at 2 GB
    path = scratch / "piece.onnx"
    ir.save(model, path, external_data="piece.onnx.data")
    return open_session(path, optimize=optimize, lean=lean)


def feature_width(vision: ir.Model) -> int:
    """Returns W, the width of a feature row that the vision graph gives."""
    return width_of(vision.graph.outputs[0])


def weight_bytes(model: ir.Model) -> int:
    """Returns the bytes of all weights."""
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )


def physical_memory() -> int:
    """Returns the bytes of memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class StreamedBackend(Backend):
    """Runs the two graphs as any backend does, whatever their size.

    Args:
        vision: the vision graph, in memory.
        encoder: the encoder graph, in memory.
        optimize: let ONNX Runtime fuse and rewrite; False runs the nodes as they are written.
        keep: bytes of weights up to which a graph is one piece, whose session stays loaded; None
            takes an eighth of the machine's memory.
    """

    def __init__(
        self, vision: ir.Model, encoder: ir.Model, *, optimize: bool = True, keep: int | None = None
    ) -> None:
        self.name = "onnxruntime, streamed"
        keep = physical_memory() // KEPT_FRACTION if keep is None else keep
        models = {"vision": vision, "encoder": encoder}
        self._pieces = {
            part: cut(model, keep if weight_bytes(model) <= keep else BUDGET)
            for part, model in models.items()
        }
        self._outputs = {part: model.graph.outputs[0].name or "" for part, model in models.items()}
        self.width = feature_width(vision)
        self.optimize = optimize
        # sessions map their weights from files in this folder, so it lives as long as they do
        self._scratch = tempfile.TemporaryDirectory()
        self._sessions = {
            part: self._open(part) for part, pieces in self._pieces.items() if len(pieces) == 1
        }

    def _open(self, part: str) -> Any:
        folder = Path(self._scratch.name) / part
        folder.mkdir()
        return load(self._pieces[part][0].model, folder, self.optimize)

    def run_all(self, part: str, feeds: Sequence[Feeds]) -> list[Floats]:
        """Returns the part's output for each of the feeds, in one pass over its weights."""
        name = self._outputs[part]
        # a graph in several pieces opens every one again, for each call: few calls with many feeds
        if part in self._sessions:
            return [run_session(self._sessions[part], feed)[name] for feed in feeds]
        results = run(self._pieces[part], feeds, [name], optimize=self.optimize)
        return [result[name] for result in results]

    def vision(self, group: PictureGroup) -> Floats:
        """Implements `Backend.vision`."""
        return self.run_all("vision", [group.vision_feeds()])[0]

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Implements `Backend.encoder`."""
        return self.run_all("encoder", [batch.encoder_feeds(features_FD)])[0]

    def features(self, batch: Batch) -> Floats:
        """Implements `Backend.features`, all of the batch's groups in one pass over the weights."""
        pieces = [piece for group in batch.groups for piece in group.pieces()]
        feeds = [piece.vision_feeds() for piece in pieces]
        features = self.run_all("vision", feeds) if feeds else []
        # row 0 is for tokens that are not visual
        no_feature = np.zeros((1, self.width), dtype=np.float32)
        return np.concatenate([no_feature, *(rows.reshape(-1, self.width) for rows in features)])

    def close(self) -> None:
        """Drops sessions and scratch files."""
        self._sessions.clear()
        self._scratch.cleanup()
