"""A data set's usable rows as a lazy sequence of pairs, and a count of those that were left out.

Opening a data set looks at every row once, without decoding a picture (`scanning`). One index and,
while opening, one hash of the positive are kept in memory per row.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, UsageError, printable, shown

from lame_training.data.files import TEXT, open_files, row_files
from lame_training.data.formats.registry import FORMATS
from lame_training.data.pairs import DataSet, Pair, RawRow, SkipRow, parts_of
from lame_training.data.scanning import (
    Hashes,
    SourceCheck,
    check_texts,
    outlines,
    shared_queries,
)
from lame_training.data.sources.data_root import DataRoot
from lame_training.data.sources.json_lines import NOT_UNICODE, parse_line
from lame_training.data.sources.row_places import RowPlaces

logger = logging.getLogger(__name__)

NAMED_ROWS = 1_000
"""Number of left-out rows of a data set that are named; all are counted."""
EQUAL_SHARE = 0.25
"""Share of rows with one query from which on it is worth a warning."""


class Rows(Sequence[Pair]):
    """The usable rows of one data set.

    `rows[i]` reads a pair from the disk. The object can be pickled and sent to another process.

    Args:
        data_set: the data set.
        files: its files.
        table: the rows, from `files.open_files`.
        images: the folder that the paths in the rows are relative to.
        root: the root folder of the data.

    Attributes:
        data_set: the data set.
        places: names the file and line of a row.
        skipped: the number of rows that were left out, by reason.
        named: row (0-based, in the table), reason and file of the first `NAMED_ROWS` of them.
        usable: the number of rows without the limit `max_rows`.
        shared: the number of rows whose query is that of another row with another positive.
    """

    def __init__(
        self, data_set: DataSet, files: list[Path], table: Any, images: Path, root: DataRoot
    ) -> None:
        self.data_set = data_set
        self.places = RowPlaces(files, data_set.name)
        self.skipped: Counter[str] = Counter()
        self.named: list[tuple[int, str, str]] = []
        self._table, self._images = table, images
        indices, queries, positives = self._scan(SourceCheck(images, root))
        self.usable = len(indices)
        count = self.usable
        if data_set.max_rows is not None:
            count = min(data_set.max_rows, count)
        # Evenly spread, because files are often sorted by class.
        spread = np.arange(count, dtype=np.int64) * self.usable // max(1, count)
        self._indices: Hashes = indices[spread]
        # Both are checked here, within seconds, not hours into a run that learns nothing.
        if not count:
            raise InputError(self._nothing_left())
        hashes = positives[spread]
        if np.all(hashes == hashes[0]) and self._has_one_positive():
            raise InputError(
                f"{self.places.everything}: all {count:,} positives are the same, so a "
                f"contrastive loss has nothing to tell apart; leave {data_set.name} out"
            )
        self.shared, self._most_shared = shared_queries(queries[spread], hashes)

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
                f"{self.places.of(row)}: {skip.reason} ({shown(skip.example)}); "
                "do not change the data while training"
            ) from None

    def place(self, index: int) -> str:
        """Returns file and line of a row, 0-based among the usable ones, for messages."""
        return self.places.of(int(self._indices[index]))

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
                row = parse_line(values[TEXT], row_format, self.data_set)
            pair = row_format.read(row, self.data_set, self._images)
            if check is not None:
                check_texts(pair)
                for item in (pair.query, pair.positive, *pair.negatives):
                    check(item)
            return pair
        except InputError as error:
            raise InputError(f"{self.places.of(index)}: {error}") from None

    def _scan(self, check: SourceCheck) -> tuple[Hashes, Hashes, Hashes]:
        """Returns the indices of the usable rows and the hashes of their queries and positives."""
        # Arrays of the full length: a list of Python ints would take several times the memory.
        indices, queries, positives = np.empty((3, len(self._table)), np.int64)
        count = 0
        for index, values in enumerate(outlines(self._table)):
            try:
                if values is None:
                    raise SkipRow(NOT_UNICODE)
                pair = self._read(values, index, check)
            except SkipRow as skip:
                self.skipped[skip.reason] += 1
                if len(self.named) < NAMED_ROWS:
                    self.named.append((index, skip.reason, skip.example))
                continue
            # A hash is enough to see that inputs differ, and it is all that is kept of them.
            indices[count], positives[count] = index, hash(pair.positive)
            queries[count] = hash(pair.query)
            # Embedded pictures are known by their size here, so equal hashes may be two pictures.
            if any(not isinstance(part, str) for part in parts_of(pair.query)):
                queries[count] ^= index
            count += 1
        return indices[:count].copy(), queries[:count].copy(), positives[:count].copy()

    def _has_one_positive(self) -> bool:
        """Returns whether positives with equal hashes are in fact equal."""
        first = self[0].positive
        if not isinstance(first.image, bytes):
            return True
        # Embedded pictures were hashed by their size. Reading stops at the first that differs.
        return all(self[index].positive == first for index in range(1, len(self)))

    def exclude(self, reasons: Mapping[int, str]) -> None:
        """Leaves out rows that turned out to be unusable, by their 0-based index.

        Raises:
            InputError: no row is left.
        """
        for index, reason in sorted(reasons.items()):
            self.skipped["cannot be prepared"] += 1
            self.named.append((int(self._indices[index]), "cannot be prepared", reason))
        self._indices = np.delete(self._indices, list(reasons))
        self.usable -= len(reasons)
        if not len(self._indices):
            raise InputError(self._nothing_left())

    def _nothing_left(self) -> str:
        return (
            f"{self.places.everything}: holds no row that can be trained on{self.left_out()}; "
            "check the file, and the folder of its pictures"
        )

    def left_out(self) -> str:
        """Returns " (N left out: …)" by descending count, or "" if no row was left out."""
        if not self.skipped:
            return ""
        first: dict[str, str] = {}
        for row, reason, example in self.named:
            if reason not in first:
                file = f": {shown(example)}" if example else ""
                first[reason] = f" (first: {self.places.of(row, short=True)}{file})"
        reasons = [
            f"{count:,} {reason}{first.get(reason, '')}"
            for reason, count in sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        ]
        return f" ({self.skipped.total():,} left out: {', '.join(reasons)})"

    def shared_queries(self) -> str:
        """Returns a line about rows with equal queries and different positives, or ""."""
        if not self.shared:
            return ""
        return (
            f"{self.data_set.name}: {self.shared:,} of {len(self):,} rows have the query of "
            "another row with another positive; their positives are no negatives of each other"
        )

    def warn(self) -> None:
        """Logs what is worth a look before a run begins: rows left out, and equal queries."""
        if self.skipped:
            logger.warning("%s", printable(describe(self)))
        # A few equal queries are usual; with many, most of a batch teaches a row nothing.
        if self._most_shared >= EQUAL_SHARE * len(self):
            logger.warning("%s", printable(self.shared_queries()))


def describe(rows: Rows) -> str:
    """Returns one line that says how many rows there are, how many were left out, and why."""
    count = f"{len(rows):,}"
    if len(rows) < rows.usable:
        count += f" of {rows.usable:,}"
    return f"{rows.data_set.name}: {count} rows{rows.left_out()}"


def open_rows(
    data: Path, data_set: DataSet, cache: Path | None = None, *, allow_outside: bool = False
) -> Rows:
    """Opens a data set and looks at every row once, without decoding anything.

    Args:
        data: the root folder that `data_set.path` and `data_set.images` are relative to.
        data_set: the data set to open.
        cache: a folder for Arrow copies of parquet and JSONL files, which the next run uses again.
            It is created if it does not exist. None keeps the copies in a temporary folder for as
            long as the rows are in use.
        allow_outside: whether paths of the data set, and links, may lead out of `data`.

    Raises:
        InputError: a file cannot be read as rows of the format, a path in a row leaves `images` or
            leads out of `data`, no row is usable, or all positives are the same.
        StorageError: a file is missing, or the disk refuses.
        UsageError: the format is unknown, the files are of several kinds, or a path of the data set
            leads out of `data`.
    """
    if data_set.format not in FORMATS:
        raise UsageError(
            f"{data_set.name}: unknown format {shown(data_set.format)!r}; "
            f"formats are {', '.join(FORMATS)}"
        )
    root = DataRoot(data.absolute(), allow_outside)
    files = row_files(data, data_set, allow_outside=allow_outside)
    # Normalized as text: `Path.resolve` would follow links, and the rows' paths do not.
    images = Path(os.path.normpath(root.join(data_set.images, "images")))
    if cache is not None:
        table = open_files(files, data_set, cache, root)
        return Rows(data_set, files, table, images, root)
    # A context manager would end before the rows are read, so the folder follows their lifetime.
    temporary = Path(tempfile.mkdtemp(prefix="lame-rows-"))
    try:
        rows = Rows(data_set, files, open_files(files, data_set, temporary, root), images, root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    weakref.finalize(rows, shutil.rmtree, temporary, ignore_errors=True)
    return rows
