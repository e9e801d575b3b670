"""Names the file and line of a row, for messages.

A table joins the rows of all its files. Which file a row came from is only needed for a message, so
the rows of the files are counted then, and not when the table is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lame_runtime.errors import LameError
from lame_runtime.files.json_file import read_json
from lame_runtime.files.regular import open_regular

MAX_JSON_LIST_BYTES = 2 << 30
"""Largest `.json` file of rows: it is read as a whole, unlike JSON Lines."""


@dataclass
class RowPlaces:
    """The places of the rows of a table.

    Attributes:
        files: the table's files, in order.
        name: the data set's name.
    """

    files: list[Path]
    name: str
    _counts: list[int | None] | None = field(default=None, init=False)

    @property
    def everything(self) -> str:
        """The table's file, or its files in words."""
        if len(self.files) == 1:
            return str(self.files[0])
        return f"{self.name} ({len(self.files)} files from {self.files[0]})"

    def of(self, row: int, *, short: bool = False) -> str:
        """Returns file and row, such as "data/own.jsonl, row 7", of a 0-based row of the table.

        In JSON Lines the number of the row is that of the line.

        Args:
            row: the row.
            short: name the file without its folder.
        """
        file, number = self._locate(row)
        if file is None:
            return f"{self.everything}, row {number + 1}"
        return f"{file.name if short else file}, row {number + 1}"

    def _locate(self, row: int) -> tuple[Path | None, int]:
        """Returns the file that a row is from, if it is known, and the row's number in it."""
        if len(self.files) == 1:
            return self.files[0], row
        if self._counts is None:
            self._counts = [_count_rows(file) for file in self.files]
        number = row
        for file, count in zip(self.files, self._counts, strict=True):
            # after a file whose rows cannot be counted, the numbers mean nothing
            if count is None:
                break
            if number < count:
                return file, number
            number -= count
        return None, row


def _count_rows(file: Path) -> int | None:
    """Returns the number of rows of a file; None if they cannot be counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix.lower() == ".parquet":
            return int(pq.read_metadata(file).num_rows)
        if file.suffix.lower() == ".json":
            return len(read_json(file, MAX_JSON_LIST_BYTES))
        if file.suffix.lower() == ".jsonl":
            with open_regular(file) as lines:
                return sum(1 for _ in lines)
    # a message about a row must not turn into one about the counting
    except (OSError, ValueError, TypeError, LameError, pa.ArrowException):
        return None
    return None
