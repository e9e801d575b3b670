"""Audits a table of vectors: every id of the source once, unit vectors, one bundle."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.bulk.vector_table import ERROR, ID, VECTOR, VectorTable, vector_rows
from lame_runtime.errors import shown

TOLERANCE = 1e-3
"""Largest deviation of a vector's length from 1 in float32."""
_LEVELS = 127


@dataclass
class IdSum:
    """A sum of ids that does not depend on their order, and their number."""

    count: int = 0
    total: int = 0

    def add(self, ids: Iterable[str]) -> None:
        """Adds ids."""
        for key in map(id_key, ids):
            self.count += 1
            # a sum, since rows of many machines come in any order
            self.total = (self.total + key) % (1 << 64)


@dataclass
class Audit:
    """A report of what a table holds, and of what is wrong with it."""

    rows: int = 0
    failed: int = 0
    """Rows without a vector."""
    problems: list[str] = field(default_factory=list)


def audit(path: Path, facts: VectorFacts, expected: IdSum | None = None) -> Audit:
    """Reads a table and returns what is wrong with it; memory grows by 8 bytes a row.

    Args:
        path: the table.
        facts: what it must have been made with.
        expected: the ids of the source; None does not compare them.

    Raises:
        InputError, StorageError: it cannot be read as a table of vectors of one bundle.
    """
    table, report, ids = VectorTable(path), Audit(), IdSum()
    if table.facts != facts:
        report.problems.append(
            "its bundle, graph or options are not those of the run "
            f"(it is of the bundle {table.facts.bundle[:12]}…)"
        )
    keys: list[npt.NDArray[np.uint64]] = []
    lengths = contradictions = 0
    for batch in table.batches([ID, VECTOR, ERROR]):
        names = batch.column(ID).to_pylist()
        ids.add(names)
        # 8 bytes instead of the 70 of an id, so that hundreds of millions fit
        keys.append(np.fromiter(map(id_key, names), np.uint64, len(names)))
        vectors, has_vector = vector_rows(batch.column(VECTOR))
        has_error = batch.column(ERROR).is_valid().to_numpy(zero_copy_only=False)
        # exactly one of the two must be there
        contradictions += int((has_vector == has_error).sum())
        lengths += int((~_unit(vectors, table.facts)).sum())
        report.failed += int((~has_vector).sum())
    report.rows = ids.count
    if expected is not None and ids != expected:
        report.problems.append(
            f"its ids are not those of the source: {ids.count:,} rows, {expected.count:,} expected"
        )
    if repeated := _repeated(table, np.concatenate(keys) if keys else np.zeros(0, np.uint64)):
        report.problems.append(f"ids occur twice: {shown(', '.join(repeated))}")
    if lengths:
        report.problems.append(f"{lengths:,} vectors are not of unit length")
    if contradictions:
        report.problems.append(f"{contradictions:,} rows have a vector and an error, or neither")
    return report


def id_key(name: str) -> int:
    """Returns 64 bits of the hash of an id."""
    return int.from_bytes(
        hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little"
    )


def _unit(vectors: npt.NDArray[np.generic], facts: VectorFacts) -> npt.NDArray[np.bool_]:
    """Returns which rows have unit length; 8 bits tell it only about, and signs not at all."""
    if facts.precision in ("binary", "ubinary"):
        return np.ones(len(vectors), dtype=bool)
    values = vectors.astype(np.float64)
    tolerance = TOLERANCE
    if facts.range is not None:
        values = (values - 128 * (facts.precision == "uint8")) * (facts.range[1][0] / _LEVELS)
        # values outside the range were clipped
        tolerance = 0.2
    lengths = np.linalg.norm(values, axis=1)
    return np.asarray(np.abs(lengths - 1) <= tolerance)


def _repeated(table: VectorTable, keys: npt.NDArray[np.uint64]) -> list[str]:
    """Returns ids that occur more than once."""
    # equal keys are neighbors then
    keys = np.sort(keys)
    suspects = np.unique(keys[1:][keys[1:] == keys[:-1]])
    if not len(suspects):
        return []
    # two ids may have equal keys, so they are compared as they are
    chosen = set(suspects.tolist())
    counts: Counter[str] = Counter()
    for batch in table.batches([ID]):
        counts.update(name for name in batch.column(ID).to_pylist() if id_key(name) in chosen)
    return [name for name, count in counts.items() if count > 1]
