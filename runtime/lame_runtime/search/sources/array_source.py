"""Reads vectors in a `.npy` file for an index, with what is known about them and their rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.bulk.vector_facts import VectorFacts
from lame_runtime.errors import InputError, StorageError, first_line, shown
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import open_regular
from lame_runtime.search.index_facts import ColumnKind

READ_ROWS = 4096
_KINDS: dict[type, ColumnKind] = {bool: "boolean", int: "integer", float: "number"}


class ArraySource:
    """Vectors in an array, and one dict for each of them.

    Args:
        vectors: (n, width) of the type that `facts` asks for.
        rows: n dicts with equal keys; None numbers the rows. `id` is their number if they have
            none.
        facts: what made the vectors.

    Raises:
        InputError: the array does not fit the facts, there are more or fewer rows, or the name of a
            column has no UTF-8.
    """

    def __init__(
        self,
        vectors: npt.NDArray[Any],
        rows: Sequence[Mapping[str, Any]] | None,
        facts: VectorFacts,
    ) -> None:
        if vectors.shape[1:] != (facts.width,) or vectors.dtype != facts.dtype:
            raise InputError(
                f"the vectors are {vectors.dtype} {vectors.shape}: {facts.precision} vectors of "
                f"{facts.dim} values are {facts.dtype} (n, {facts.width})"
            )
        if rows is not None and len(rows) != len(vectors):
            raise InputError(f"there are {len(vectors):,} vectors and {len(rows):,} rows")
        self.facts = facts
        self.rows = len(vectors)
        self._vectors = vectors
        self._rows: Sequence[Mapping[str, Any]] = [{}] * len(vectors) if rows is None else rows
        names = {name for row in self._rows for name in row} - {"id"}
        self.kinds: dict[str, ColumnKind] = {"id": "text"}
        for name in sorted(names):
            if _has_surrogates(name):
                # `index.json` could not be read again
                raise InputError(f"the name {shown(name)!r} of a column has no UTF-8: rename it")
            types = {type(row[name]) for row in self._rows if row.get(name) is not None}
            # integers that are larger than 64 bits stay texts
            if types == {int} and not _fits(self._rows, name):
                types = {str}
            # integers and numbers with a fraction in one column are numbers
            if types == {int, float}:
                types = {float}
            self.kinds[name] = _KINDS.get(types.pop(), "text") if len(types) == 1 else "text"

    def batches(self) -> Iterator[tuple[npt.NDArray[Any], dict[str, list[Any]], int]]:
        """Yields vectors (m, width), the values of their rows, and no rows without a vector."""
        for start in range(0, self.rows, READ_ROWS):
            rows = self._rows[start : start + READ_ROWS]
            values = {
                name: [_value(row.get(name), kind) for row in rows]
                for name, kind in self.kinds.items()
            }
            values["id"] = [str(row.get("id", start + number)) for number, row in enumerate(rows)]
            yield self._vectors[start : start + READ_ROWS], values, 0


def _has_surrogates(name: str) -> bool:
    return name != name.encode("utf-8", "replace").decode()


def _fits(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(-(1 << 63) <= (row.get(name) or 0) < 1 << 63 for row in rows)


def _value(value: Any, kind: ColumnKind) -> Any:
    return str(value) if kind == "text" and value is not None else value


def read_array(path: Path) -> npt.NDArray[Any]:
    """Returns the array of a `.npy` file, memory-mapped.

    Raises:
        InputError: it is not a `.npy` file of numbers in two dimensions.
        StorageError: it cannot be read.
    """
    try:
        open_regular(path).close()
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise StorageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    except (ValueError, EOFError, SyntaxError) as error:
        raise InputError(
            f"{shown(path)}: is not a .npy file ({first_line(error)}); give what `embed` wrote"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise InputError(f"{shown(path)}: is not an array of two axes (vectors, values)")
    return array


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the objects of a JSONL file, one per line.

    Raises:
        InputError: a line is not a JSON object.
        StorageError: the file cannot be read.
    """
    rows: list[dict[str, Any]] = []
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    row = parse_json(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise InputError(f"{shown(path)}, line {number}: is not a JSON object")
                rows.append(row)
    except OSError as error:
        raise StorageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    return rows
