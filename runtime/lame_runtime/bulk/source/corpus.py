"""Reads corpora as rows, one after the other: folders, files, JSONL, CSV, Parquet and stdin.

A row that is damaged is a row with an error. What is wrong with the whole source (no such file, no
such column) is an error of the call, before the first row.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lame_runtime.bulk.arrow_modules import arrow
from lame_runtime.bulk.source.columns import ColumnNames, table_rows
from lame_runtime.bulk.source.rows import (
    INPUT_KEYS,
    Row,
    file_columns,
    identified,
    make_row,
    unreadable,
)
from lame_runtime.contract.media.pages import is_pdf, page_names
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError, StorageError, UsageError, first_line, shown
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import open_regular
from lame_runtime.inputs import VIDEO_SUFFIXES

STDIN = "-"
MAX_LINE = 64 << 20
"""Largest JSONL line in bytes; a line may hold a picture as a `data:` URI."""
MAX_COUNTED_BYTES = 4 << 30
"""Largest file whose lines are counted for the progress bar."""
READ_ROWS = 256
"""Rows of a Parquet file that are read at a time; each may hold a picture."""
TABLES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Corpus:
    """Sources in the order of the command line.

    Attributes:
        names: files, folders, and `-` for JSONL on stdin.
        suffixes: what the names of a folder's pictures, videos and PDFs end in.
        columns: the columns of tables that hold inputs and ids.
        texts: texts, which come last.
    """

    names: Sequence[str]
    suffixes: frozenset[str]
    columns: ColumnNames
    texts: Sequence[str] = ()

    def check(self) -> int | None:
        """Checks every source, and returns about how many rows there are; None if unknown.

        Raises:
            InputError: a folder without pictures, or a table without a named column.
            StorageError: a source does not exist or cannot be read.
        """
        # all of them before any work, so that a typo does not show up after hours
        counts = [self._check(name) for name in self.names]
        known = [count for count in counts if count is not None]
        return sum(known) + len(self.texts) if len(known) == len(counts) else None

    def rows(self) -> Iterator[Row]:
        """Yields the rows in order.

        Raises:
            InputError: a line of JSONL is too long, or a file is not CSV.
            StorageError: reading a source fails.
            UsageError: stdin is closed.
        """
        for name in self.names:
            if name == STDIN:
                if sys.stdin is None:
                    raise UsageError("stdin is closed; pipe JSONL into it or name a file")
                yield from self._json_lines(sys.stdin.buffer, Path())
            elif Path(name).is_dir():
                for path in self._media(name):
                    yield from _file_rows(path)
            elif name.lower().endswith(TABLES):
                yield from self._table(name)
            else:
                yield from _file_rows(name)
        for text in self.texts:
            yield identified(Input(text=text), {"path": None, "page": None, "text": text})

    def _check(self, name: str) -> int | None:
        if name == STDIN:
            return None
        if Path(name).is_dir():
            count = sum(1 for _ in self._media(name))
            if not count:
                raise InputError(
                    f"{shown(name)}: a folder without pictures, videos or PDFs "
                    f"({', '.join(sorted(self.suffixes))})"
                )
            return count
        path = name.rpartition("#page=")[0] or name
        with _opened(path) as file:
            if not name.lower().endswith(TABLES):
                return 1
            if name.lower().endswith(".parquet"):
                with _parquet(file, name) as table:
                    self.columns.check(table.schema_arrow.names, name)
                    return int(table.metadata.num_rows)
            if name.lower().endswith(".csv"):
                self.columns.check(_csv_header(file, name), name)
                file.seek(0)
            if os.fstat(file.fileno()).st_size > MAX_COUNTED_BYTES:
                return None
            # about a second for a gigabyte; the last line may lack its end
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
            return max(lines - name.lower().endswith(".csv"), 0)

    def _media(self, folder: str) -> Iterator[str]:
        """Yields the pictures, videos and PDFs of a folder and those below, by name."""

        def refuse(error: OSError) -> None:
            raise StorageError(f"{shown(error.filename)}: cannot be listed ({error.strerror})")

        # sorted, because a resumed run must meet the files in the same order
        for root, folders, names in os.walk(folder, onerror=refuse):
            # in place, which is what `walk` goes by; hidden ones belong to the system
            folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and _suffix(name) in self.suffixes:
                    yield os.path.join(root, name)  # noqa: PTH118 - ten times as fast

    def _table(self, name: str) -> Iterator[Row]:
        root = Path(name).parent
        with _opened(name) as file:
            if name.lower().endswith(".jsonl"):
                yield from self._json_lines(file, root)
            elif name.lower().endswith(".csv"):
                yield from self._csv(file, name, root)
            else:
                with _parquet(file, name) as table:
                    for batch in table.iter_batches(READ_ROWS):
                        yield from table_rows(batch.to_pydict(), self.columns, root)

    def _json_lines(self, file: IO[bytes], root: Path) -> Iterator[Row]:
        blank = {"path": None, "page": None, "text": None}
        for line in iter(lambda: file.readline(MAX_LINE + 1), b""):
            if len(line) > MAX_LINE:
                raise InputError(
                    f"{shown(getattr(file, 'name', STDIN))}: a line is longer than {MAX_LINE:,} "
                    "bytes; give pictures as files"
                )
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not text:
                continue
            try:
                value = parse_json(text.decode("utf-8"))
            except ValueError as error:
                problem = InputError(f"the line is not JSON ({shown(first_line(error), 200)})")
                yield unreadable(text, problem, blank)
                continue
            # a line may be a text by itself
            if isinstance(value, str):
                value = {"text": value}
            if not isinstance(value, dict):
                yield unreadable(text, InputError("the line is not a JSON string or object"), blank)
                continue
            value = self.columns.renamed(value)
            given_id = value.pop("id", None)
            inputs = {key: value.pop(key) for key in INPUT_KEYS if key in value}
            yield make_row(inputs, value, given_id, root)

    def _csv(self, file: IO[bytes], name: str, root: Path) -> Iterator[Row]:
        try:
            for record in csv.DictReader(_text_lines(file)):
                # more cells than the header has columns
                record.pop(None, None)
                one = {key: [value or None] for key, value in record.items()}
                yield from table_rows(one, self.columns, root)
        except csv.Error as error:
            raise InputError(f"{shown(name)}: cannot be read as CSV ({error})") from None


def _file_rows(name: str) -> Iterator[Row]:
    try:
        names = page_names(name) if is_pdf(name) else [name]
    # a PDF that cannot be opened is one row; its id is still that of its content
    except InputError as error:
        row = identified(Input(content=(Picture(name),)), file_columns(name))
        yield Row(row.id, error, row.columns)
        return
    is_video = _suffix(name) in VIDEO_SUFFIXES
    for part in names:
        content = Video(part) if is_video else Picture(part)
        yield identified(Input(content=(content,)), file_columns(part))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - as above


@contextlib.contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    try:
        file = open_regular(name)
    except OSError as error:
        raise StorageError(
            f"{shown(name)}: cannot be read ({error.strerror}); check the path"
        ) from None
    with file:
        yield file


@contextlib.contextmanager
def _parquet(file: IO[bytes], name: str) -> Iterator[Any]:
    try:
        with arrow("parquet").ParquetFile(file) as table:
            yield table
    except (OSError, arrow().ArrowInvalid) as error:
        raise StorageError(
            f"{shown(name)}: cannot be read as Parquet ({shown(first_line(error), 200)})"
        ) from None


def _text_lines(file: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(file):
        yield (line.removeprefix(b"\xef\xbb\xbf") if not number else line).decode(
            "utf-8", "replace"
        )


def _csv_header(file: IO[bytes], name: str) -> list[str]:
    try:
        return next(csv.reader(_text_lines(file)), [])
    except csv.Error as error:
        raise InputError(f"{shown(name)}: cannot be read as CSV ({error})") from None
