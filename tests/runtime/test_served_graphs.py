"""Vectors of the server do not depend on what they run with, on the graphs that promise it."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lame_runtime import Encoder

sys.path.insert(0, str(Path(__file__).parent.parent / "serving"))
from running_server import as_bytes, data_url, picture, running


@pytest.mark.parametrize("graph", ["fp32", "int8-cpu"])
def test_a_vector_equals_that_of_its_input_alone(graph: str, exported: Path) -> None:
    """Bit for bit, in batches of texts and pictures of many sizes."""

    def load() -> Encoder:
        return Encoder.load(exported, graph=graph, threads=1, backend="onnxruntime")

    texts = [f"{'more ' * (number % 13)}digits that add up to {number}" for number in range(60)]
    pictures = [picture(number, 30 + 3 * number, 60) for number in range(20)]
    items: list[Any] = [*texts, *map(data_url, pictures)]
    with load() as encoder:
        inputs = [*texts, *({"image": data} for data in pictures)]
        alone = [as_bytes(encoder.encode([item]))[0] for item in inputs]
    with running(load=load) as server, ThreadPoolExecutor(16) as threads:
        # every twentieth item in one request, so that texts and pictures share batches
        requests = [list(range(start, len(items), 20)) for start in range(20)] * 3
        replies = threads.map(
            lambda rows: server.vectors(input=[items[row] for row in rows]), requests
        )
        for rows, vectors in zip(requests, replies, strict=True):
            assert vectors == [alone[row] for row in rows]
        runs = server.figure("lame_batch_items_count")
        assert server.figure("lame_batch_items_sum") > 2 * runs
