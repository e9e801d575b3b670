"""Rows of a data set from the files it is published in, and the collecting of rows into a task.

A table is a `.parquet`, `.jsonl` or `.json` file, or a folder of them as a clone of a hub's data set has it.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError

from lame_training.suites.base import Query, Task, TaskSpec

Row = dict[str, Any]
SUFFIXES = (".parquet", ".jsonl", ".json")


def tables(place: Path) -> list[Path]:
    """The files of a table: `place` itself, `place` with one of the suffixes, or those in the folder `place`, by name."""
    if place.is_file():
        return [place]
    if named := [path for suffix in SUFFIXES if (path := place.with_name(place.name + suffix)).is_file()]:
        return named[:1]
    for suffix in SUFFIXES:
        if found := sorted(place.rglob(f"*{suffix}")):
            return found
    return []


def read_table(place: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a table, a few in memory at a time.

    Args:
        place: see `tables`.
        columns: those every row must have.

    Raises:
        InputError: no such table, an unreadable file, a missing column; the message names the file.
    """
    paths = tables(place)
    if not paths:
        raise InputError(f"{place}: no such table; it must be a .parquet or .jsonl file or a folder of them")
    for path in paths:
        for number, row in enumerate(_parquet(path) if path.suffix == ".parquet" else _json(path), 1):
            if missing := [column for column in columns if column not in row]:
                raise InputError(f"{path}, row {number}: lacks the column {missing[0]}; its rows must have {', '.join(columns)}")
            yield row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); copy it again") from None


def _json(path: Path) -> Iterator[Row]:
    try:
        if path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
            lines = rows if isinstance(rows, list) else [rows]
        else:
            # not splitlines: JSON strings may hold U+2028
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as {path.suffix[1:].upper()} ({error}); copy it again") from None
    for line in lines:
        if not isinstance(line, dict):
            raise InputError(f"{path}: a row is a {type(line).__name__}, not an object; copy it again")
        yield line


class Collector:
    """Gathers the queries and documents of a task; a row that cannot be used is counted with its reason.

    Args:
        spec: the task.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.documents: dict[str, Input] = {}
        self.missing: dict[str, str] = {}
        self._queries: list[Query] = []
        self._skipped: list[str] = []
        self._rows = 0

    def document(self, name: str, make: Callable[[], Input]) -> str:
        """Makes a document unless its name is known, and returns the name.

        Raises:
            ValueError: it cannot be made; said again for every row that names it.
        """
        if name in self.missing:
            raise ValueError(self.missing[name])
        if name not in self.documents:
            try:
                self.documents[name] = make()
            except ValueError as error:
                self.missing[name] = str(error)
                raise
        return name

    def corpus(self, rows: Iterable[Row], column: str, make: Callable[[Row], Input]) -> None:
        """Makes a document of each row, named by a column; those that cannot be made are remembered with their reason."""
        for row in rows:
            with contextlib.suppress(ValueError):
                self.document(str(row[column]), functools.partial(make, row))

    def read(self, rows: Iterable[Row], parse: Callable[[Row], Query]) -> None:
        """Turns rows into queries; `parse` raises `ValueError` with the reason where one cannot be used."""
        for row in rows:
            self._rows += 1
            try:
                query = parse(row)
                if wrong := [name for name in query.relevance if name not in self.documents]:
                    raise ValueError(f"its right document {wrong[0]} {self.missing.get(wrong[0], 'does not exist')}")
            except ValueError as error:
                self._skipped.append(f"row {self._rows}: {error}")
            else:
                self._queries.append(query)

    def task(self) -> Task:
        """What was gathered; of a local pool's documents only those a query ranks."""
        documents, lost = self.documents, [f"{name}: {reason}" for name, reason in self.missing.items()]
        if self.spec.pool == "local":
            ranked = {name for query in self._queries for name in query.pool or ()}
            documents, lost = {name: item for name, item in documents.items() if name in ranked}, []
        return Task(self.spec, self._queries, documents, self._rows, self._skipped, lost)


def text_of(row: Row, column: str) -> str:
    """A cell's text, empty where it is null or the column is not there; raises `ValueError` for anything but text."""
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"its {column} is a {type(value).__name__}, not a text")
    return value


def name_of(row: Row, column: str) -> str:
    """An identifier as text, whatever type the file keeps it in; raises `ValueError` where it is empty."""
    value = row.get(column) if isinstance(row, dict) else None
    if value is None or value == "":
        raise ValueError(f"its {column} is empty")
    return str(value)


def list_of(row: Row, column: str) -> list[Any]:
    """A cell's list; raises `ValueError` for anything else."""
    value = row.get(column)
    if not isinstance(value, list | tuple):
        raise ValueError(f"its {column} is a {type(value).__name__}, not a list")
    return list(value)


def existing(path: Path) -> str:
    """The path of a picture; raises `ValueError` where there is no such file."""
    if not path.is_file():
        raise ValueError(f"the picture {path} is missing")
    return str(path)
