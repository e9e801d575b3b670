"""Times searches among synthetic vectors, and measures what a first stage loses.

    python lame_export/benchmarks/search_stages.py runs/search --rows 1000000 --dim 1024

Vectors are of two kinds: `learned` ones lie near a space of `dim` / 4 dimensions whose variance
falls off, as those of trained models do; `random` ones are of all directions alike, which no
model's are, and are the worst case of a first stage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.search import Index
from lame_runtime.search.index_writer import write_index
from lame_runtime.search.sources.array_source import ArraySource

BLOCK, QUERIES, ROUNDS = 50_000, 100, 11
NOISE = 0.2


def unit_rows(count: int, dim: int, kind: str, seed: int) -> npt.NDArray[np.float32]:
    """Returns vectors (count, dim) of a kind."""
    rank = dim // 4
    turn = np.random.default_rng(0).normal(size=(rank, dim)).astype(np.float32)
    turn *= (1 / np.sqrt(1 + np.arange(rank)))[:, None].astype(np.float32)
    rows = np.empty((count, dim), dtype=np.float32)
    generator = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        if kind == "learned":
            block = generator.standard_normal((size, rank), dtype=np.float32) @ turn
            block += NOISE * generator.standard_normal((size, dim), dtype=np.float32)
        else:
            block = generator.standard_normal((size, dim), dtype=np.float32)
        rows[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def milliseconds(call: Callable[[], object]) -> float:
    """Returns the median time of a call."""
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Prints one JSON object per kind of vectors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--kind", choices=["learned", "random"], default="learned")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    dim = options.dim
    facts = VectorFacts("0" * 64, "fp32", "document", None, dim, "float32")
    source = ArraySource(unit_rows(options.rows, dim, options.kind, 1), None, facts)
    start = time.perf_counter()
    write_index(source, options.folder / "index", prefix=dim // 4)
    report: dict[str, Any] = {"kind": options.kind, "index_s": time.perf_counter() - start}
    del source
    index = Index.open(options.folder / "index")
    queries = unit_rows(QUERIES, dim, options.kind, 2)
    exact = index.search(queries)
    report["exact_ms"] = milliseconds(lambda: index.search(queries[0]))
    for stage in ("bits", "prefix"):
        for candidates in (40, None, 10_000):
            options_of = {"first_stage": stage, "candidates": candidates}
            staged = index.search(queries, **options_of)
            recall = float(np.mean(staged.scores >= exact.scores[:, -1:]))
            name = f"{stage}, {candidates or 1000}"
            report[f"{name}: recall@10"] = recall
            report[f"{name}: ms"] = milliseconds(partial(index.search, queries[0], **options_of))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
