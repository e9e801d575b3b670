"""Reads the rows of a published data set, and the cells of a row.

A table is a `.parquet`, `.jsonl` or `.json` file, or a folder of such files as a clone of a hub's
data set has it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lame_runtime.errors import InputError, StorageError, first_line, shown
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import open_regular, read_regular

from lame_training.data.sources.data_root import is_link, lies_inside

TableRow = dict[str, Any]
"""One row of a table: cell value by column name."""
SUFFIXES = (".parquet", ".jsonl", ".json")
"""File types of a table, in the order in which they are preferred."""
MAX_JSON_BYTES = 4 << 30
"""Largest JSON table that is read; it is read as a whole."""
PARQUET_ROWS = 64
"""Rows of a parquet file in memory at a time; a corpus of page images has megabytes per row."""


def table_files(table: Path) -> list[Path]:
    """Returns the files of a table, in name order; an empty list if there are none.

    Args:
        table: a file, a path that becomes a file with one of the suffixes, or a folder of files.

    Raises:
        StorageError: the folder may not be looked at.
    """
    try:
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
    except OSError as error:
        raise StorageError(
            f"{table}: cannot be read ({error.strerror}); check its permissions"
        ) from None
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
    import pyarrow.parquet as pq

    try:
        # pyarrow would wait forever for a pipe
        with open_regular(path) as opened, pq.ParquetFile(opened) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                yield from batch.to_pylist()
    # pyarrow raises OSError for damaged content as well, so without a number it is no StorageError;
    # the header of a damaged file, and a text that is not UTF-8, raise errors of many classes.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise _unreadable(path, error) from None
        raise InputError(
            f"{path}: not a readable parquet file ({shown(first_line(error), 160)}); copy it again"
        ) from None


def _json_rows(path: Path) -> Iterator[TableRow]:
    try:
        text = read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig")
        if path.suffix == ".json":
            content = parse_json(text)
            rows = content if isinstance(content, list) else [content]
        else:
            # Not `splitlines`: JSON strings may contain U+2028, which it splits at.
            rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise InputError(
            f"{path}: not readable as {path.suffix[1:].upper()} ({shown(error, 160)}); copy it "
            "again"
        ) from None
    for row in rows:
        if not isinstance(row, dict):
            raise InputError(
                f"{path}: a row is a {type(row).__name__}, not an object; copy it again"
            )
        yield row


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be read ({error.strerror}); copy it again")


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
    # a list or an object as a name would be its Python form, of any length
    if not isinstance(value, str | int | float):
        raise ValueError(f"its {column} is a {type(value).__name__}, not a name")
    return str(value)


def list_of(row: TableRow, column: str) -> list[Any]:
    """Returns a cell's list; raises `ValueError` if the cell holds anything else."""
    value = row.get(column)
    if not isinstance(value, list | tuple):
        raise ValueError(f"its {column} is a {type(value).__name__}, not a list")
    return list(value)


def texts_of(row: TableRow, column: str) -> list[str]:
    """Returns a cell's list of texts; raises `ValueError` if the cell holds anything else."""
    values = list_of(row, column)
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"its {column} is not a list of texts")
    return values


def place_below(folder: Path, name: str) -> Path:
    """Returns the path of a file or folder that a row names.

    Args:
        folder: the folder that names of the row start from; it may itself be a link.
        name: from the row; it comes with the data, and must not lead out of the folder.

    Raises:
        ValueError: it leads out of the folder, as text or by a link, or is no path.
    """
    path = folder / name
    inside = os.path.normpath(path).startswith(f"{os.path.normpath(folder).rstrip('/')}/")
    # most files are no links, and share a folder that was looked at before
    followed = inside and "\0" not in name and _lies_inside(path.parent, folder)
    if not followed or (is_link(path) and not lies_inside(path, folder)):
        raise ValueError(f"the path {shown(name)} leads out of {folder}")
    return path


@functools.lru_cache(maxsize=4096)
def _lies_inside(path: Path, folder: Path) -> bool:
    return lies_inside(path, folder)


def existing(folder: Path, name: str) -> str:
    """Returns the path of a picture as text.

    Args:
        folder: the folder that names of the row start from.
        name: from the row.

    Raises:
        ValueError: there is no such file, or it leads out of the folder.
    """
    path = place_below(folder, name)
    try:
        exists = path.is_file()
    except OSError:  # a name that is too long
        exists = False
    if not exists:
        raise ValueError(f"the picture {path} is missing")
    return str(path)
