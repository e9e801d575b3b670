"""Files that several tests need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from lame_runtime import Encoder
from lame_runtime.retrieval import TaskResult, embed_rows, evaluate, read_rows, tasks
from lame_training.collate import Row
from lame_training.data import Pair


def write_video(path: Path, frames: int, rate: int = 10, size: tuple[int, int] = (64, 48), codec: str = "mpeg4") -> Path:
    """Frame i is grey of level 8 i, so that a frame can be told from its neighbours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for index in range(frames):
            grey = np.full((size[1], size[0], 3), min(8 * index, 255), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def rows_of(pairs: Iterable[Pair]) -> list[Row]:
    """Pairs as the rows of a step."""
    return [Row("rows", number, pair) for number, pair in enumerate(pairs)]


def hits(encoder: Encoder, data: Path) -> dict[str, TaskResult]:
    """Every task of `DATA/eval/`, by the runtime's own reader and metric."""
    rows = {task: read_rows(data, task) for task in tasks(data)}
    return {result.task: result for result in evaluate(rows, embed_rows(lambda items, role: encoder.encode(items, role=role), rows))}
