"""A data set's usable rows as a lazy sequence of pairs, and a count of those that were left out.

Opening a data set looks at every row once, without decoding a picture (`scanning`). One index and,
while opening, one hash of the positive are kept in memory per row.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, UsageError

from lame_training.data.files import TEXT, open_files, row_files
from lame_training.data.formats.registry import FORMATS
from lame_training.data.pairs import DataSet, Format, Pair, RawRow, SkipRow
from lame_training.data.scanning import SourceCheck, outlines


class Rows(Sequence[Pair]):
    """The usable rows of one data set.

    `rows[i]` reads a pair from the disk. The object can be pickled and sent to another process.

    Args:
        data_set: the data set.
        location: its file, or its files in words, for messages.
        table: the rows, from `files.open_files`.
        images: the folder that the paths in the rows are relative to.

    Attributes:
        data_set: the data set.
        skipped: the number of rows that were left out, by reason.
        first: the first missing file, by reason.
        usable: the number of rows without the limit `max_rows`.
    """

    def __init__(self, data_set: DataSet, location: str, table: Any, images: Path) -> None:
        self.data_set = data_set
        self.skipped: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self._location, self._table, self._images = location, table, images
        indices, hashes = self._scan()
        self.usable = len(indices)
        count = self.usable
        if data_set.max_rows is not None:
            count = min(data_set.max_rows, count)
        # Evenly spread, because files are often sorted by class.
        spread = np.arange(count, dtype=np.int64) * self.usable // max(1, count)
        self._indices: npt.NDArray[np.int64] = indices[spread]
        # Both are checked here, within seconds, not hours into a run that learns nothing.
        if not count:
            raise InputError(
                f"{location}: holds no row that can be trained on{self.left_out()}; "
                "check the file, and the folder of its pictures"
            )
        if np.all(hashes[spread] == hashes[spread[0]]) and self._has_one_positive():
            raise InputError(
                f"{location}: all {count:,} positives are the same, so a contrastive loss has "
                f"nothing to tell apart; leave {data_set.name} out"
            )

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        # Messages count rows as the file does, not as the usable ones are counted.
        row = int(self._indices[index])
        try:
            return self._read(self._table[row].to_pylist()[0], row)
        except SkipRow as skip:  # the row was usable when the data set was opened
            raise InputError(
                f"{self._location}, row {row + 1}: {skip.reason} ({skip.example}); "
                "do not change the data while training"
            ) from None

    def __str__(self) -> str:
        return describe(self)

    def _read(
        self, values: RawRow, index: int, check: Callable[[Input], None] | None = None
    ) -> Pair:
        """Reads one row.

        Args:
            values: the row of the table.
            index: its number, 0-based, for messages.
            check: called for each input; raises `SkipRow` or `InputError`.

        Raises:
            SkipRow: the row is left out.
            InputError: the row does not have the format's shape.
        """
        row_format = FORMATS[self.data_set.format]
        try:
            row = values
            if TEXT in values:  # the file was read line by line
                row = _parse_line(values[TEXT], row_format, self.data_set)
            pair = row_format.read(row, self.data_set, self._images)
            if check is not None:
                for item in (pair.query, pair.positive, *pair.negatives):
                    check(item)
            return pair
        except InputError as error:
            raise InputError(f"{self._location}, row {index + 1}: {error}") from None

    def _scan(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns the indices of the usable rows and the hashes of their positives, int64 each."""
        check = SourceCheck(self._images)
        # Arrays of the full length: a list of Python ints would take several times the memory.
        indices = np.empty(len(self._table), np.int64)
        hashes = np.empty(len(self._table), np.int64)
        count = 0
        for index, values in enumerate(outlines(self._table)):
            try:
                pair = self._read(values, index, check)
            except SkipRow as skip:
                self.skipped[skip.reason] += 1
                if skip.example:
                    self.first.setdefault(skip.reason, skip.example)
                continue
            # A hash is enough to see that positives differ, and it is all that is kept of them.
            indices[count], hashes[count] = index, hash(pair.positive)
            count += 1
        return indices[:count].copy(), hashes[:count].copy()

    def _has_one_positive(self) -> bool:
        """Returns whether positives with equal hashes are in fact equal."""
        first = self[0].positive
        if not isinstance(first.image, bytes):
            return True
        # Embedded pictures were hashed by their size. Reading stops at the first that differs.
        return all(self[index].positive == first for index in range(1, len(self)))

    def left_out(self) -> str:
        """Returns " (N skipped: …)" by descending count, or "" if no row was left out."""
        if not self.skipped:
            return ""
        reasons = []
        for reason, count in sorted(self.skipped.items(), key=lambda item: (-item[1], item[0])):
            example = f" (first: {self.first[reason]})" if reason in self.first else ""
            reasons.append(f"{count:,} {reason}{example}")
        return f" ({self.skipped.total():,} skipped: {', '.join(reasons)})"


def describe(rows: Rows) -> str:
    """Returns one line that says how many rows there are, how many were left out, and why."""
    count = f"{len(rows):,}"
    if len(rows) < rows.usable:
        count += f" of {rows.usable:,}"
    return f"{rows.data_set.name}: {count} rows{rows.left_out()}"


def open_rows(data: Path, data_set: DataSet, cache: Path | None = None) -> Rows:
    """Opens a data set and looks at every row once, without decoding anything.

    Args:
        data: the root folder that `data_set.path` and `data_set.images` are relative to.
        data_set: the data set to open.
        cache: a folder for Arrow copies of parquet and JSONL files, which the next run uses again.
        It
            is created if it does not exist. None keeps the copies in a temporary folder for as long
            as the rows are in use.

    Raises:
        InputError: a file cannot be read as rows of the format, a path in a row leaves `images`, no
            row is usable, or all positives are the same.
        StorageError: a file is missing, or the disk refuses.
        UsageError: the format is unknown, or the files are of several kinds.
    """
    if data_set.format not in FORMATS:
        raise UsageError(
            f"{data_set.name}: unknown format {data_set.format!r}; formats are {', '.join(FORMATS)}"
        )
    data = data.absolute()
    files = row_files(data, data_set)
    location = str(files[0])
    if len(files) > 1:
        location = f"{data_set.name} ({len(files)} files from {files[0]})"
    # Normalized as text: `Path.resolve` would follow links, and the rows' paths do not.
    images = Path(os.path.normpath(data / data_set.images))
    if cache is not None:
        return Rows(data_set, location, open_files(files, data_set, cache), images)
    # A context manager would end before the rows are read, so the folder follows their lifetime.
    temporary = Path(tempfile.mkdtemp(prefix="lame-rows-"))
    try:
        rows = Rows(data_set, location, open_files(files, data_set, temporary), images)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    weakref.finalize(rows, shutil.rmtree, temporary, ignore_errors=True)
    return rows


def _parse_line(line: str, row_format: Format, data_set: DataSet) -> RawRow:
    """Parses one line of JSONL; raises `SkipRow` if it is blank, `InputError` if it is no row."""
    # A blank line is no damage, but it is counted like every row that is left out.
    if not line.strip():
        raise SkipRow("blank line")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise InputError(f"not JSON ({error}); write one object per line") from None
    if not isinstance(row, dict):
        raise InputError(f"a {type(row).__name__}; write one JSON object per line")
    missing = [column for column in row_format.columns if column not in row]
    if missing:
        columns = ", ".join(row_format.columns)
        raise InputError(f"lacks {missing[0]!r}; rows of format {data_set.format} have {columns}")
    return row
