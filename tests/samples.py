"""Files and rows that several tests need."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lame_runtime import Encoder
from lame_training.data import DataSet, Pair
from lame_training.data.step_batch import BatchRow
from lame_training.evaluation.retrieval import TaskResult, embed_rows, evaluate, read_rows, tasks
from PIL import Image

PICTURE = Image.new("L", (28, 28))
IMAGE_FEATURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""The Arrow type of the `Image` feature of `datasets`."""


def write_video(
    path: Path, frames: int, rate: int = 10, size: tuple[int, int] = (64, 48), codec: str = "mpeg4"
) -> Path:
    """Writes a video whose frame i is gray of level 8 i, so that neighboring frames differ."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        # High enough that compression keeps the gray levels apart.
        stream.bit_rate = 4_000_000
        for index in range(frames):
            gray = np.full((size[1], size[0], 3), min(8 * index, 255), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")):
                container.mux(packet)
        # Without a frame, `encode` returns the packets that the encoder still holds back.
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_mmeb_rows(
    data: Path, *rows: dict[str, Any], name: str = "x", pictures: tuple[str, ...] = ()
) -> Path:
    """Writes `DATA/train/NAME.parquet` in MMEB-train's format, and pictures below `DATA`."""
    # Empty strings are what MMEB-train has in place of a missing text or picture.
    empty = {"qry": "", "qry_image_path": "", "pos_text": "", "pos_image_path": ""}
    (data / "train").mkdir(parents=True, exist_ok=True)
    path = data / f"train/{name}.parquet"
    pq.write_table(pa.Table.from_pylist([{**empty, **row} for row in rows]), path)
    for picture in pictures:
        (data / picture).parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(data / picture)
    return path


def write_page_rows(path: Path, *pictures: bytes | None) -> None:
    """Writes a shard of pages that are embedded as they are given, decodable or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"query": f"page {number}", "image": {"bytes": content, "path": None}}
        for number, content in enumerate(pictures)
    ]
    # An explicit schema, since a column of nulls alone has no type.
    schema = pa.schema([("query", pa.string()), ("image", IMAGE_FEATURE)])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_own_rows(data: Path, *rows: Any, name: str = "own.jsonl") -> DataSet:
    """Writes our own JSONL format and returns the data set."""
    data.mkdir(parents=True, exist_ok=True)
    # Not escaped, so that tests see how UTF-8 is read.
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (data / name).write_text("".join(lines), encoding="utf-8")
    return DataSet("own", "positive", format="jsonl", path=(name,))


def write_mixture(folder: Path, text: str) -> Path:
    """Writes `FOLDER/mixture.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mixture.yaml").write_text(text, encoding="utf-8")
    return folder / "mixture.yaml"


def rows_of(pairs: Iterable[Pair]) -> list[BatchRow]:
    """Returns pairs as the rows of a step."""
    return [BatchRow("rows", number, pair) for number, pair in enumerate(pairs)]


def hits(encoder: Encoder, data: Path) -> dict[str, TaskResult]:
    """Evaluates every task of `DATA/eval/`; returns the results by task."""
    rows = {task: read_rows(data, task) for task in tasks(data)}
    vectors = embed_rows(lambda items, role: encoder.encode(items, role=role), rows)
    return {result.task: result for result in evaluate(rows, vectors)}


def edit_json(path: Path, **changes: object) -> None:
    """Sets keys of the JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@contextmanager
def logged() -> Iterator[list[str]]:
    """Yields a list that fills with what the runtime logs in the block."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("lame_runtime")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
