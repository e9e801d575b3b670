"""Reads tables of vectors, Parquet, for an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lame_runtime.bulk.arrow_modules import arrow
from lame_runtime.bulk.vector_table import ERROR, ID, VECTOR, VectorTable, vector_rows
from lame_runtime.search.index_facts import ColumnKind


class TableSource:
    """A Parquet file or a folder of them, as `embed` writes it.

    Args:
        path: the file or folder.

    Raises:
        InputError: it is not a table of vectors.
        StorageError: a file cannot be read.
        UsageError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._table = VectorTable(path)
        self.facts = self._table.facts
        self.rows = self._table.rows
        """Rows of the table, those without a vector included."""
        # types come from a first row, since `columns` are names alone
        schema = next(iter(self._table.batches(rows=1))).schema if self.rows else None
        kept = [name for name in self._table.columns if name not in (ID, VECTOR, ERROR)]
        self.kinds: dict[str, ColumnKind] = {ID: "text"}
        for name in kept:
            self.kinds[name] = "text" if schema is None else _kind(schema.field(name).type)

    def batches(self) -> Iterator[tuple[npt.NDArray[Any], dict[str, list[Any]], int]]:
        """Yields vectors (m, width), the values of their rows, and the rows without a vector."""
        for batch in self._table.batches([*self.kinds, VECTOR]):
            vectors, has_vector = vector_rows(batch.column(VECTOR))
            # rows that could not be embedded are counted and left out
            kept = batch.filter(arrow().array(has_vector))
            values = {
                name: _converted(kept.column(name).to_pylist(), kind)
                for name, kind in self.kinds.items()
            }
            yield vectors, values, len(has_vector) - len(vectors)


def _kind(arrow_type: Any) -> ColumnKind:
    types = arrow("types")
    if types.is_boolean(arrow_type):
        return "boolean"
    # uint64 beyond 2⁶³ would not fit, and stays a text
    if types.is_integer(arrow_type) and not types.is_uint64(arrow_type):
        return "integer"
    return "number" if types.is_floating(arrow_type) else "text"


def _converted(values: list[Any], kind: ColumnKind) -> list[Any]:
    """Returns values of a kind; lists, dates and the like become texts."""
    if kind != "text":
        return values
    return [
        value
        if value is None or isinstance(value, str)
        else json.dumps(value, default=str, ensure_ascii=False)
        for value in values
    ]
