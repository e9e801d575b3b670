"""`Index`: vectors on the disk that are searched exactly, or in two stages."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lame_runtime.arguments import choice, folder_path, integer
from lame_runtime.contract.vectors import quantize, unit_rows
from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.machine.cores import default_workers
from lame_runtime.search.conditions import Where, parse_where, unknown_column
from lame_runtime.search.hamming import Words, distances, words_of
from lame_runtime.search.index_facts import IndexFacts, read_index_facts
from lame_runtime.search.nearest import Nearest, Numbers
from lame_runtime.search.scoring import MARGIN, Floats, rescored, scaled, scan
from lame_runtime.search.storage.array_files import map_array
from lame_runtime.search.storage.index_columns import Column

FirstStage = Literal["none", "bits", "prefix"]
FIRST_STAGES: tuple[FirstStage, ...] = ("none", "bits", "prefix")
VECTORS_FILE, SIGNS_FILE, PREFIX_FILE = "vectors.npy", "signs.npy", "prefix.npy"
RESCORED = 4
"""Candidates of a first stage for each row that is asked for."""
LEAST_CANDIDATES = 1000
"""Fewest candidates of a first stage. Four times ten is too few for vectors of 64 values."""
MOST_ROWS = 10_000
_ROWS_PER_THREAD = 1 << 16
"""A thread with fewer rows takes longer to start than to scan."""


@dataclass(frozen=True)
class Matches:
    """The best rows of every query, the best first; of equal scores, the first row."""

    rows: npt.NDArray[np.int64]
    """Numbers of rows (q, k); k is below `top_k` if fewer rows are there."""
    scores: npt.NDArray[np.float64]
    """Cosines (q, k); of 8 bits and signs, those of the stored vectors."""


@dataclass(frozen=True, eq=False)
class Index:
    """An index that is open for searching; any number of threads may share it.

    Open one with `Index.open`. Nothing is read before it is needed: the files are memory-mapped.

    Attributes:
        folder: the index.
        facts: bundle, graph, precision and role of its vectors, and its columns.
    """

    folder: Path
    facts: IndexFacts
    _vectors: npt.NDArray[Any]
    _signs: Words
    _prefix: Floats | None
    _columns: dict[str, Column]

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> Index:
        """Opens the folder that `lame-runtime index` wrote.

        Raises:
            StorageError: it is no index, or a file of it is missing or damaged.

        Example:
            >>> index = Index.open("pictures.index")
            >>> matches = index.search(encoder.encode_query("a red bicycle"), top_k=5)
            >>> [index.row(row)["path"] for row in matches.rows[0]]
        """
        path = folder_path("folder", folder)
        # the sizes of all other files follow from this one
        facts = read_index_facts(path)
        kind, rows = facts.vectors, facts.rows
        columns = {
            column.name: Column(path, place, column, rows)
            for place, column in enumerate(facts.columns)
        }
        prefix = None
        if facts.prefix is not None:
            prefix = map_array(path / PREFIX_FILE, np.dtype(np.float32), (rows, facts.prefix))
        return Index(
            path,
            facts,
            map_array(path / VECTORS_FILE, kind.dtype, (rows, kind.width)),
            map_array(path / SIGNS_FILE, np.dtype(np.uint64), (rows, -(-kind.dim // 64))),
            prefix,
            columns,
        )

    def __len__(self) -> int:
        return self.facts.rows

    @property
    def columns(self) -> list[str]:
        """Names of the columns, `id` first."""
        return list(self._columns)

    def row(self, row: int) -> dict[str, Any]:
        """Returns the values of a row by the names of their columns; raises `UsageError`."""
        row = integer("row", row, 0, len(self) - 1)
        return {name: column.value(row) for name, column in self._columns.items()}

    def search(
        self,
        queries: npt.ArrayLike,
        *,
        top_k: int = 10,
        where: Where = None,
        first_stage: FirstStage = "none",
        candidates: int | None = None,
    ) -> Matches:
        """Returns the rows whose vectors are nearest to those of queries.

        Args:
            queries: vectors (q, dim) or (dim,) of the index's own bundle and graph, as
                `Encoder.encode_query` returns them; longer ones are cut to the index's `dim`.
            top_k: rows per query.
            where: conditions that rows must meet, such as `"label=7"`, `["year>=2020", "page=1"]`
                or `{"label": [7, 8]}`.
            first_stage: "none" compares with every vector. "bits" compares signs first, and
                "prefix" the leading values, and then the vectors of the best candidates only.
            candidates: rows that a first stage keeps; by default four for each row asked for, and
                at least 1,000.

        Raises:
            StorageError: stored vectors are damaged.
            UsageError: an argument is out of range, vectors have another length, there is no such
                column, or the index holds no prefixes.
        """
        top_k = integer("top_k", top_k, 1, MOST_ROWS)
        first_stage = choice("first_stage", first_stage, FIRST_STAGES)
        if first_stage == "prefix" and self._prefix is None:
            raise UsageError(
                '`first_stage="prefix"` needs an index with prefixes: make it with `prefix=…`, '
                'or use "bits"'
            )
        vectors = self._query_vectors(queries)
        rows = self._allowed(where)
        # conditions come first: the best rows of all may meet none of them
        most = min(top_k, len(self) if rows is None else len(rows))
        least = most
        if candidates is not None:
            least = max(most, integer("candidates", candidates, 1, 1 << 30))
        elif first_stage != "none":
            least = max(RESCORED * most, LEAST_CANDIDATES)
        shortlists = self._shortlists(vectors, rows, first_stage, least)
        # a first stage only chooses; the scores are those of the stored vectors in any case
        exact = scaled(vectors, self.facts.vectors)
        best = [
            rescored(self._vectors, query, self.facts.vectors, shortlist, most)
            for query, shortlist in zip(exact, shortlists, strict=True)
        ]
        # NaN is nearest to nothing, and a row must not be lost without a word
        if any(len(numbers) != most for numbers, _ in best):
            raise StorageError(
                f"{shown(self.folder)}: holds vectors that are not finite; copy the index again"
            )
        # with a shape also if no row meets the conditions
        shape = len(vectors), most
        return Matches(
            np.array([numbers for numbers, _ in best], dtype=np.int64).reshape(shape),
            np.array([scores for _, scores in best], dtype=np.float64).reshape(shape),
        )

    def _query_vectors(self, queries: npt.ArrayLike) -> Floats:
        # a query is normalized here, since a client may send a vector of its own
        dim = self.facts.vectors.dim
        rows = unit_rows(queries, "queries")
        if rows.shape[1] < dim:
            raise UsageError(
                f"`queries` have {rows.shape[1]} values, and the vectors of the index {dim}: "
                "embed them with its own bundle"
            )
        # Matryoshka: the leading values of a longer vector, at unit length again
        return rows if rows.shape[1] == dim else unit_rows(rows[:, :dim], "queries")

    def _allowed(self, where: Where) -> Numbers | None:
        """Returns the numbers of the rows that meet all conditions; None for all rows."""
        conditions = parse_where(where)
        if not conditions:
            return None
        # a byte per row, however many conditions there are
        mask = np.ones(len(self), dtype=np.bool_)
        for condition in conditions:
            column = self._columns.get(condition.column)
            if column is None:
                raise unknown_column(condition.column, self._columns)
            either = [column.matches(condition.sign, value) for value in condition.values]
            mask &= functools.reduce(np.logical_or, either, np.zeros_like(mask))
        return np.flatnonzero(mask)

    def _shortlists(
        self, queries: Floats, rows: Numbers | None, first_stage: FirstStage, count: int
    ) -> list[Numbers]:
        """Returns the rows that may be the best of each query."""
        facts = self.facts.vectors
        if first_stage == "bits":
            nearest = self._nearest_signs(queries, rows, count)
        elif first_stage == "prefix" and self._prefix is not None:
            width = self._prefix.shape[1]
            # stored in float32, whatever the precision of the vectors
            kind = replace(facts, dim=width, precision="float32", range=None)
            nearest = scan(self._prefix, unit_rows(queries[:, :width]), kind, rows, count)
        else:
            exact = scaled(queries, facts)
            nearest = scan(self._vectors, exact, facts, rows, count + MARGIN)
        return [shortlist.best()[0] for shortlist in nearest]

    def _nearest_signs(self, queries: Floats, rows: Numbers | None, count: int) -> list[Nearest]:
        patterns = words_of(quantize(queries, "ubinary", 1.0))
        # equal parts: every row costs the same
        total = len(self) if rows is None else len(rows)
        threads = max(1, min(default_workers(), total // _ROWS_PER_THREAD))
        bounds = [total * number // threads for number in range(threads + 1)]

        def part(start: int, end: int) -> list[Nearest]:
            best = [Nearest(count) for _ in patterns]
            for numbers, query, differing in distances(self._signs, patterns, rows, start, end):
                # fewer differing signs are better
                best[query].add(numbers, -differing.astype(np.int32))
            return best

        if threads == 1:
            return part(0, total)
        # NumPy releases the GIL for every step of a block
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(part, bounds[:-1], bounds[1:]))
        for other in parts[1:]:
            for nearest, more in zip(parts[0], other, strict=True):
                nearest.merge(more)
        return parts[0]

    def require_bundle(self, sha256: str, graph: str) -> None:
        """Raises `UsageError` unless queries come from the bundle and graph of the index."""
        self.facts.require_bundle(sha256, graph, shown(self.folder))
