"""Runs the pieces of a graph, whatever its size, on ONNX Runtime's CPU provider.

A graph in memory holds its weights lazily (see `forward.trace`). Each of its pieces becomes a small
model on the disk, whose weights are mapped while the piece runs over all inputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from lame_runtime.backends.onnxruntime import open_session, run_session
from lame_runtime.machine.memory import return_freed_memory

from lame_export.streaming.attention_blocks import Feeds, run_by_query
from lame_export.streaming.pieces import Piece

Report = Callable[[int, Feeds], None]
"""Receives the index of a run's feeds and all outputs of one piece in that run."""


class StoredPieces:
    """The pieces of one graph, each written to the disk once, when it first runs.

    Args:
        pieces: pieces of one graph, from `cut`.
        scratch: folder in which a temporary one is made for the files; None takes the system's.
        optimize: let ONNX Runtime fuse and rewrite. Several pieces are never optimized, so that
            their weights stay mapped from the disk.
    """

    def __init__(
        self, pieces: Sequence[Piece], scratch: Path | None = None, *, optimize: bool = True
    ) -> None:
        self.pieces = pieces
        self._optimize = optimize
        self._folder = tempfile.TemporaryDirectory(dir=scratch)
        self._written: set[int] = set()

    def run(
        self, feeds: Sequence[Feeds], outputs: Sequence[str], report: Report | None = None
    ) -> list[Feeds]:
        """Runs every piece over all feeds before the next one is opened.

        What later pieces read is kept for all feeds, so a caller with many of them makes several
        calls.

        Args:
            feeds: the graph's inputs, per run.
            outputs: names of the graph's outputs to return.
            report: receives what every run of every piece computes.

        Returns:
            The outputs, per run.
        """
        # values that later pieces need, per run: at first the feeds, then results of earlier pieces
        states = [dict(feed) for feed in feeds]
        for index, piece in enumerate(self.pieces):
            needed = {name for later in self.pieces[index + 1 :] for name in later.inputs}
            needed |= set(outputs)
            session = self._open(index)
            for number, state in enumerate(states):
                inputs = {name: state[name] for name in piece.inputs}
                if piece.by_query:
                    results = run_by_query(partial(run_session, session), inputs, piece.by_query)
                else:
                    results = run_session(session, inputs)
                if report is not None:
                    report(number, results)
                state.update({name: results[name] for name in piece.outputs})
                for name in state.keys() - needed:
                    del state[name]
            del session
            # activations of many sizes leave the heap full of holes, which count as this process's
            return_freed_memory()
        return states

    def close(self) -> None:
        """Removes the files."""
        self._folder.cleanup()

    def __enter__(self) -> StoredPieces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, index: int) -> Any:
        folder = Path(self._folder.name) / str(index)
        if index not in self._written:
            folder.mkdir()
            save(self.pieces[index].model, folder)
            self._written.add(index)
        is_cut = len(self.pieces) > 1
        return open_saved(folder, self._optimize and not is_cut, lean=is_cut)


def save(model: ir.Model, folder: Path) -> None:
    """Writes a model in memory to an empty folder, its weights one by one."""
    # weights in a file of their own, because a protobuf message, and so a graph, ends at 2 GB
    ir.save(model, folder / "piece.onnx", external_data="piece.onnx.data")


def open_saved(folder: Path, optimize: bool, *, lean: bool = False) -> Any:
    """Opens an ONNX Runtime session on what `save` wrote; the folder must outlive it.

    Args:
        folder: holds the model.
        optimize: let ONNX Runtime fuse and rewrite.
        lean: see `open_session`.
    """
    return open_session(folder / "piece.onnx", optimize=optimize, lean=lean)
