"""A backend over graphs in memory, whatever their size and that of the inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from lame_runtime.backends.base import Backend
from lame_runtime.backends.onnxruntime import run_session
from lame_runtime.contract.batch import Batch, Floats, PictureGroup

from lame_export.rewrites.nodes import width_of
from lame_export.streaming.attention_blocks import Feeds, needs_blocks
from lame_export.streaming.pieces import BUDGET, cut
from lame_export.streaming.running import StoredPieces, open_saved, save


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


@dataclass(frozen=True)
class Resources:
    """Memory and disk that graphs in pieces may use."""

    keep: int = 3 << 30
    """Bytes of weights up to which a graph stays loaded between runs."""
    scratch: Path | None = None
    """Folder for temporary files, which take as much space as the weights in FP32; None takes the
    system's."""


DEFAULT = Resources()


class StreamedBackend(Backend):
    """Runs the two graphs as any backend does.

    A graph that is small enough is kept as a session. A larger one runs in pieces, and so does any
    graph for inputs whose attention does not fit in memory at once.

    Args:
        vision: the vision graph, in memory.
        encoder: the encoder graph, in memory.
        optimize: let ONNX Runtime fuse and rewrite; False runs the nodes as they are written.
        resources: memory and disk that it may use.
    """

    def __init__(
        self,
        vision: ir.Model,
        encoder: ir.Model,
        *,
        optimize: bool = True,
        resources: Resources = DEFAULT,
    ) -> None:
        self.name = "onnxruntime, streamed"
        self._models = {"vision": vision, "encoder": encoder}
        self._outputs = {
            part: model.graph.outputs[0].name or "" for part, model in self._models.items()
        }
        self.width = feature_width(vision)
        self.optimize = optimize
        self._scratch = resources.scratch
        # sessions map their weights from files in this folder, so it lives as long as they do
        self._folder = tempfile.TemporaryDirectory(dir=resources.scratch)
        self._sessions: dict[str, Any] = {}
        self._pieces: dict[str, StoredPieces] = {}
        try:
            for part, model in self._models.items():
                if weight_bytes(model) <= resources.keep:
                    self._sessions[part] = self._open(part)
        except BaseException:
            self.close()
            raise

    def _open(self, part: str) -> Any:
        folder = Path(self._folder.name) / part
        folder.mkdir()
        save(self._models[part], folder)
        return open_saved(folder, self.optimize)

    def run_all(self, part: str, feeds: Sequence[Feeds]) -> list[Floats]:
        """Returns the part's output for each of the feeds, in one pass over its weights."""
        name = self._outputs[part]
        if part in self._sessions and not any(needs_blocks(feed) for feed in feeds):
            return [run_session(self._sessions[part], feed)[name] for feed in feeds]
        if part not in self._pieces:
            # attention apart even where it would fit, so that weights are written only once
            pieces = cut(self._models[part], BUDGET, attention_apart=True)
            self._pieces[part] = StoredPieces(pieces, self._scratch, optimize=self.optimize)
        return [result[name] for result in self._pieces[part].run(feeds, [name])]

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
        for pieces in self._pieces.values():
            pieces.close()
        self._folder.cleanup()
