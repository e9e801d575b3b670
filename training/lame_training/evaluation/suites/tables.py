"""Reads the rows of a published data set, and the cells of a row.

A table is a `.parquet`, `.jsonl` or `.json` file, or a folder of such files as a clone of a hub's
data set has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lame_runtime.errors import InputError, StorageError

TableRow = dict[str, Any]
"""One row of a table: cell value by column name."""
SUFFIXES = (".parquet", ".jsonl", ".json")
"""File types of a table, in the order in which they are preferred."""
PARQUET_ROWS = 64
"""Rows of a parquet file in memory at a time; a corpus of page images has megabytes per row."""


def table_files(table: Path) -> list[Path]:
    """Returns the files of a table, in name order; an empty list if there are none.

    Args:
        table: a file, a path that becomes a file with one of the suffixes, or a folder of files.
    """
    if table.is_file():
        return [table]
    for suffix in SUFFIXES:
        named = table.with_name(table.name + suffix)
        if named.is_file():
            return [named]
    for suffix in SUFFIXES:
        # One type only, or rows that a folder holds in two types would count twice.
        files = sorted(table.rglob(f"*{suffix}"))
        if files:
            return files
    return []


def read_table(table: Path, columns: tuple[str, ...]) -> Iterator[TableRow]:
    """Yields the rows of a table, with only a few in memory at a time.

    Args:
        table: see `table_files`.
        columns: the columns that every row must have.

    Raises:
        StorageError: there is no such table.
        InputError: a file cannot be parsed, or a column is missing; the message names the file.
    """
    paths = table_files(table)
    if not paths:
        raise StorageError(
            f"{table}: no such table; it must be a .parquet or .jsonl file or a folder of them"
        )
    for path in paths:
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
        for number, row in enumerate(rows, 1):
            # In each row, because JSON lines need not be alike; in parquet the first one decides.
            missing = [column for column in columns if column not in row]
            if missing:
                raise InputError(
                    f"{path}, row {number}: lacks the column {missing[0]}; "
                    f"its rows must have {', '.join(columns)}"
                )
            yield row


def _parquet_rows(path: Path) -> Iterator[TableRow]:
    # Deferred: pyarrow takes 0.2 s to import, and JSON tables do not need it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        # pyarrow raises OSError for damaged content as well, so this is no StorageError. Its
        # messages can have several lines, and users get one.
        raise InputError(
            f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); copy it again"
        ) from None


def _json_rows(path: Path) -> Iterator[TableRow]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = json.loads(text)
            rows = content if isinstance(content, list) else [content]
        else:
            # Not `splitlines`: JSON strings may contain U+2028, which it splits at.
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); copy it again") from None
    except ValueError as error:
        raise InputError(
            f"{path}: not readable as {path.suffix[1:].upper()} ({error}); copy it again"
        ) from None
    for row in rows:
        if not isinstance(row, dict):
            raise InputError(
                f"{path}: a row is a {type(row).__name__}, not an object; copy it again"
            )
        yield row


# The functions below raise ValueError with the reason for skipping a row. Reasons are stored in
# result files and hashed into the identity of a task's data: rewording one re-runs finished tasks.


def text_of(row: TableRow, column: str) -> str:
    """Returns a cell's text, empty if the cell is null or the column is missing.

    Raises:
        ValueError: the cell holds something other than text.
    """
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"its {column} is a {type(value).__name__}, not a text")
    return value


def name_of(row: TableRow, column: str) -> str:
    """Returns an identifier as text, whatever type the file stores it in.

    Raises:
        ValueError: the identifier is empty or missing, or `row` is not a dictionary.
    """
    value = row.get(column) if isinstance(row, dict) else None
    # Not `if not value`: 0 is a valid identifier.
    if value is None or value == "":
        raise ValueError(f"its {column} is empty")
    return str(value)


def list_of(row: TableRow, column: str) -> list[Any]:
    """Returns a cell's list; raises `ValueError` if the cell holds anything else."""
    value = row.get(column)
    if not isinstance(value, list | tuple):
        raise ValueError(f"its {column} is a {type(value).__name__}, not a list")
    return list(value)


def existing(path: Path) -> str:
    """Returns the path of a picture as text; raises `ValueError` if there is no such file."""
    if not path.is_file():
        raise ValueError(f"the picture {path} is missing")
    return str(path)
