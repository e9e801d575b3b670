"""Runs graphs of any size in little memory, on ONNX Runtime's CPU provider.

A graph in memory holds its weights lazily (see `forward.trace`). It is cut into pieces; every piece
becomes a small model on the disk, runs over all inputs, and is dropped.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from lame_runtime.backends.onnxruntime import open_session, run_session

from lame_export.streaming.attention_blocks import Feeds, run_by_query
from lame_export.streaming.pieces import Piece

Watch = Callable[[Piece, int], Callable[[Feeds], None]]
"""Called with each piece and its number before it is loaded; may add outputs to it.

Returns a function that is called with all outputs of each run, in the order of the feeds.
"""


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
                inputs = {name: state[name] for name in piece.inputs}
                if piece.by_query:
                    results = run_by_query(partial(run_session, session), inputs, piece.by_query)
                else:
                    results = run_session(session, inputs)
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
