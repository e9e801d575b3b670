"""Cosines of queries with stored vectors of any precision, block by block.

Blocks are read from the memory-mapped file, so memory does not grow with the index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.search.nearest import Nearest, Numbers, Scores

Floats = npt.NDArray[np.float32]

_BLOCK_BYTES = 8 << 20
"""Vectors of a block as float32; larger ones leave the caches of most processors."""
_LEVELS = 127
"""The level of 8-bit vectors that stands for the end of their range."""
MARGIN = 32
"""Rows that are kept beyond those asked for, because scores are computed once more in float64."""


def decoded(block: npt.NDArray[Any], facts: VectorFacts) -> Floats:
    """Returns stored vectors as float32 (n, dim): values, integer levels, or signs as -1 and 1."""
    # as they are mapped, without a copy
    if facts.precision == "float32":
        values: Floats = np.asarray(block, dtype=np.float32)
        return values
    if facts.precision in ("binary", "ubinary"):
        # "binary" is "ubinary" - 128, which turns the highest bit of each byte
        packed = block if facts.precision == "ubinary" else block.view(np.uint8) ^ np.uint8(128)
        signs: Floats = np.unpackbits(packed, axis=1, count=facts.dim).astype(np.float32)
        signs *= 2
        signs -= 1
        return signs
    levels: Floats = block.astype(np.float32)
    if facts.precision == "uint8":
        levels -= 128
    return levels


def scaled(queries: Floats, facts: VectorFacts) -> Floats:
    """Returns queries (q, dim) whose products with `decoded` vectors are cosines.

    The scales of the stored values go into the queries, of which there are few.
    """
    if facts.precision in ("binary", "ubinary"):
        return np.asarray(queries / np.sqrt(facts.dim), dtype=np.float32)
    # float32 values are stored as they are
    if facts.range is None:
        return queries
    lowest, highest = np.abs(np.array(facts.range, dtype=np.float64))
    return np.asarray(queries * (np.maximum(lowest, highest) / _LEVELS), dtype=np.float32)


def scan(
    vectors: npt.NDArray[Any],
    queries: Floats,
    facts: VectorFacts,
    rows: Numbers | None,
    most: int,
) -> list[Nearest]:
    """Returns the rows with the highest cosines for every query, from all rows.

    Args:
        vectors: stored vectors (n, width).
        queries: (q, dim), `scaled`.
        facts: precision of the vectors.
        rows: numbers of the rows that count, ascending; None for all.
        most: rows to keep.
    """
    count = len(vectors) if rows is None else len(rows)
    size = max(1, _BLOCK_BYTES // (4 * facts.dim))
    best = [Nearest(most) for _ in queries]
    for start in range(0, count, size):
        end = min(start + size, count)
        numbers = np.arange(start, end) if rows is None else rows[start:end]
        block = vectors[start:end] if rows is None else vectors[numbers]
        # one product for all queries, which BLAS spreads over the cores
        scores = decoded(block, facts) @ queries.T
        for nearest, column in zip(best, scores.T, strict=True):
            nearest.add(numbers, np.ascontiguousarray(column))
    return best


def rescored(
    vectors: npt.NDArray[Any], query: Floats, facts: VectorFacts, rows: Numbers, most: int
) -> tuple[Numbers, Scores]:
    """Returns the best of some rows and their cosines.

    In float64, so that the score of a row depends neither on the block that it was read with nor
    on the number of queries.

    Args:
        vectors: stored vectors (n, width).
        query: (dim,), `scaled`.
        facts: precision of the vectors.
        rows: numbers of rows.
        most: rows to return.
    """
    # in the order of the file, which a disk reads faster
    rows = np.sort(rows)
    block = decoded(vectors[rows], facts).astype(np.float64)
    # a sum of its own for each row: a product of matrices would depend on their sizes
    scores = (block * query.astype(np.float64)).sum(axis=1)
    order = np.lexsort((rows, -scores))[:most]
    return rows[order], scores[order]
