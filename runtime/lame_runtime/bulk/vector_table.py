"""The format of tables of vectors: Parquet, with the origin of the vectors in its metadata.

    id       string, never null: the sha256 of the content, or what the source gave
    …        columns kept of the source, such as `path`, `page` and `text`
    vector   list of fixed size: float32, or int8 or uint8 for fewer bits; null without a vector
    error    string: why there is no vector; null if there is one

A table is one file, or a folder of files with equal metadata. The metadata stand under the key
`lame`, as a JSON object with the fields of `VectorFacts`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.bulk.arrow_modules import arrow
from lame_runtime.bulk.vector_facts import EMBED_AGAIN, VectorFacts, difference
from lame_runtime.errors import InputError, StorageError, first_line, shown
from lame_runtime.files.regular import open_regular

ID, VECTOR, ERROR = "id", "vector", "error"
RESERVED = (ID, VECTOR, ERROR)
"""Columns that every table has; a column of the source cannot have such a name."""
READ_ROWS = 4096
"""Rows that are read at a time: 16 MB of vectors with 1,024 values in float32."""


def table_schema(facts: VectorFacts, kept: Sequence[Any] = ()) -> Any:
    """Returns the `pyarrow.Schema` of a table; `kept` are the fields of columns of the source."""
    pa = arrow()
    element = pa.from_numpy_dtype(facts.dtype)
    return pa.schema(
        [
            pa.field(ID, pa.string(), nullable=False),
            *kept,
            pa.field(VECTOR, pa.list_(element, facts.width)),
            pa.field(ERROR, pa.string()),
        ],
        metadata=facts.to_metadata(),
    )


def vector_column(vectors: npt.NDArray[Any], has_vector: npt.NDArray[np.bool_]) -> Any:
    """Returns the column `vector` as a `pyarrow.FixedSizeListArray` of n rows.

    Args:
        vectors: (m, width), those of the rows that have one, in their order.
        has_vector: (n,), which rows have one; m of them are true.
    """
    pa = arrow()
    width = vectors.shape[1]
    if has_vector.all():
        # no copy of what may be hundreds of megabytes
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
    # lists of fixed size keep room for nulls, too
    rows = np.zeros((len(has_vector), width), dtype=vectors.dtype)
    rows[has_vector] = vectors
    return pa.FixedSizeListArray.from_arrays(
        pa.array(rows.reshape(-1)), width, mask=pa.array(~has_vector)
    )


def vector_rows(column: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Returns the vectors (m, width) of a column `vector`, and which of its n rows have one (n,).

    Args:
        column: an array or chunked array of lists of fixed size.
    """
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    has_vector = column.is_valid().to_numpy(zero_copy_only=False)
    # `flatten` leaves out the room of rows that are null
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, column.type.list_size), has_vector


class VectorTable:
    """A table of vectors that is read: one Parquet file, or a folder of them.

    Attributes:
        paths: the files, by name.
        facts: where the vectors come from, equal in all files.
        columns: names of all columns, in the order of the first file.
        rows: number of rows, those without a vector included.
    """

    def __init__(self, path: Path) -> None:
        """Opens a table.

        Raises:
            InputError: it is not a table of vectors, or its files have different facts.
            StorageError: a file cannot be read.
        """
        self.paths = table_paths(path)
        self.facts, self.columns, self.rows = _inspect(self.paths[0])
        # files of two bundles in one folder would be searched together without a word
        for other in self.paths[1:]:
            facts, columns, rows = _inspect(other)
            if facts != self.facts or set(columns) != set(self.columns):
                differing = difference(facts, self.facts) or "columns"
                raise InputError(
                    f"{shown(other)}: its {differing} differ from those of "
                    f"{shown(self.paths[0].name)}; embed the whole corpus again with one bundle"
                )
            self.rows += rows

    def batches(self, columns: Sequence[str] | None = None, rows: int = READ_ROWS) -> Iterator[Any]:
        """Yields `pyarrow.RecordBatch`es in order; memory is bounded by a row group.

        Args:
            columns: names of the columns to read; None for all.
            rows: most rows of a batch.

        Raises:
            InputError: a file has no such column.
            StorageError: a file is damaged, or cannot be read.
        """
        for path in self.paths:
            with _opened(path) as file:
                names = file.schema_arrow.names
                for column in columns or ():
                    if column not in names:
                        raise InputError(
                            f"{shown(path)}: has no column {shown(column)!r}; "
                            f"it has {shown(', '.join(names), 400)}"
                        )
                yield from file.iter_batches(rows, columns=columns)


def read_facts(path: Path) -> VectorFacts:
    """Returns the facts of a table; errors are those of `VectorTable`."""
    return VectorTable(path).facts


def table_paths(path: Path) -> list[Path]:
    """Returns the Parquet files of a table, by name; hidden files are temporary.

    Raises:
        InputError: a folder without Parquet files.
        StorageError: it cannot be listed.
    """
    try:
        if not path.is_dir():
            return [path]
        names = sorted(file for file in path.iterdir() if file.suffix == ".parquet")
    except OSError as error:
        raise StorageError(f"{shown(path)}: cannot be listed ({error.strerror})") from None
    files = [file for file in names if not file.name.startswith((".", "_"))]
    if not files:
        raise InputError(f"{shown(path)}: a folder without Parquet files; {EMBED_AGAIN}")
    return files


def _inspect(path: Path) -> tuple[VectorFacts, list[str], int]:
    with _opened(path) as file:
        schema = file.schema_arrow
        facts = VectorFacts.from_metadata(schema.metadata, str(path))
        expected = table_schema(facts)
        for name in RESERVED:
            if name not in schema.names or schema.field(name).type != expected.field(name).type:
                raise InputError(
                    f"{shown(path)}: its column {name!r} is missing or of another type; "
                    f"{EMBED_AGAIN}"
                )
        return facts, schema.names, file.metadata.num_rows


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    parquet = arrow("parquet")
    try:
        with open_regular(path) as stream, parquet.ParquetFile(stream) as file:
            yield file
    # also of a damaged row group, which is read later
    except (OSError, arrow().ArrowInvalid) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or first_line(error)
    return StorageError(f"{shown(path)}: cannot be read as Parquet ({reason}); {EMBED_AGAIN}")
