"""A data set's rows as a lazy sequence of pairs, and what was left out of it, said once when it is opened.

Opening reads texts and paths, never a picture: embedded ones are replaced by their sizes, which Arrow knows without
touching the bytes. What is kept in memory is one index and one hash of the positive per row.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError

from lame_training.data.files import TEXT, open_files, row_files
from lame_training.data.formats import FORMATS
from lame_training.data.pairs import DataSet, Format, Pair, Row, SkipRow, parts_of

BATCH = 1_000
"""Rows that are looked at together while opening."""


class Rows(Sequence[Pair]):
    """The usable rows of one data set; `rows[i]` reads one from the disk. It can be sent to another process.

    Attributes:
        data_set: whose rows they are.
        skipped: how many rows were left out, by reason.
        first: the first row left out for each reason that names a file.
        usable: how many there are without `max_rows`.
    """

    def __init__(self, data_set: DataSet, where: str, table: Any, images: Path) -> None:
        self.data_set = data_set
        self.skipped: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self._where, self._table, self._images = where, table, images
        indices, hashes = self._scan()
        self.usable = len(indices)
        most = self.usable if data_set.max_rows is None else min(data_set.max_rows, self.usable)
        spread = np.arange(most, dtype=np.int64) * self.usable // max(1, most)
        self._indices: npt.NDArray[np.int64] = indices[spread]
        if not most:
            raise InputError(f"{where}: holds no row that can be trained on{self._left_out()}; check the file and where its pictures lie")
        if np.all(hashes[spread] == hashes[spread[0]]) and self._one_positive():
            raise InputError(
                f"{where}: all {most:,} positives are the same, so a contrastive loss has nothing to tell apart; leave {data_set.name} out"
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
        row = int(self._indices[index])
        try:
            return self._read(self._table[row].to_pylist()[0], row)
        except SkipRow as skip:  # it was there when the data set was opened
            raise InputError(f"{self._where}, row {row + 1}: {skip.reason} ({skip.example}); leave the data alone while training") from None

    def __str__(self) -> str:
        return describe(self)

    def _read(self, values: dict[str, Any], index: int, check: Callable[[Input], None] | None = None) -> Pair:
        try:
            layout = FORMATS[self.data_set.format]
            row = _parsed(values[TEXT], layout, self.data_set) if TEXT in values else values
            pair = layout.read(row, self.data_set, self._images)
            if check is not None:
                for item in (pair.query, pair.positive, *pair.negatives):
                    check(item)
            return pair
        except InputError as error:
            raise InputError(f"{self._where}, row {index + 1}: {error}") from None

    def _scan(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices of the usable rows, and a hash of each one's positive."""
        check = _SourceCheck(self._images)
        indices, hashes = np.empty(len(self._table), np.int64), np.empty(len(self._table), np.int64)
        count = 0
        for index, values in enumerate(_outlines(self._table)):
            try:
                pair = self._read(values, index, check)
            except SkipRow as skip:
                self.skipped[skip.reason] += 1
                if skip.example:
                    self.first.setdefault(skip.reason, skip.example)
                continue
            indices[count], hashes[count] = index, hash(pair.positive)
            count += 1
        return indices[:count].copy(), hashes[:count].copy()

    def _one_positive(self) -> bool:
        """Whether positives of one hash are one. Only embedded pictures, hashed by size, must be read; the first other one ends it."""
        first = self[0].positive
        if not isinstance(first.image, bytes):
            return True
        return all(self[index].positive == first for index in range(1, len(self)))

    def _left_out(self) -> str:
        if not self.skipped:
            return ""
        reasons = [
            f"{count:,} {reason}" + (f" (first: {self.first[reason]})" if reason in self.first else "")
            for reason, count in sorted(self.skipped.items(), key=lambda each: (-each[1], each[0]))
        ]
        return f" ({self.skipped.total():,} skipped: {', '.join(reasons)})"


def describe(rows: Rows) -> str:
    """One line: how many rows there are, how many were left out, and why."""
    amount = f"{len(rows):,} rows" if len(rows) == rows.usable else f"{len(rows):,} of {rows.usable:,} rows"
    return f"{rows.data_set.name}: {amount}{rows._left_out()}"


def open_rows(root: Path, data_set: DataSet, cache: Path | None = None) -> Rows:
    """Opens a data set and looks at every row once, without decoding anything.

    Args:
        root: of the data; `data_set.path` and `data_set.images` begin here.
        data_set: what to open.
        cache: a folder for Arrow copies of parquet and JSONL, made where it is missing and used again by the next run; without
            one they lie in a temporary folder as long as the rows are in use.

    Raises:
        InputError: no such file or format, one that cannot be read, a row of another shape or with a path that leaves
            `images`, no usable row, or all positives are the same.
    """
    if data_set.format not in FORMATS:
        raise InputError(f"{data_set.name}: unknown format {data_set.format!r}; formats are {', '.join(FORMATS)}")
    root = root.absolute()
    files = row_files(root, data_set)
    where = str(files[0]) if len(files) == 1 else f"{data_set.name} ({len(files)} files from {files[0]})"
    images = Path(os.path.normpath(root / data_set.images))
    if cache is not None:
        return Rows(data_set, where, open_files(files, data_set, cache), images)
    temporary = Path(tempfile.mkdtemp(prefix="lame-rows-"))
    try:
        rows = Rows(data_set, where, open_files(files, data_set, temporary), images)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    weakref.finalize(rows, shutil.rmtree, temporary, ignore_errors=True)
    return rows


def _parsed(line: str, layout: Format, data_set: DataSet) -> Row:
    if not line.strip():
        raise SkipRow("blank line")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error}); write one object per line") from None
    if not isinstance(row, dict):
        raise InputError(f"a {type(row).__name__}; write one JSON object per line")
    if missing := [column for column in layout.columns if column not in row]:
        raise InputError(f"lacks {missing[0]!r}; rows of format {data_set.format} have {', '.join(layout.columns)}")
    return row


def _outlines(table: Any) -> Iterator[dict[str, Any]]:
    """The rows with every embedded picture replaced by its size in bytes, written as bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def sizes(column: Any) -> Any:
        length = pc.binary_length(column)
        return pc.cast(pc.cast(pc.if_else(pc.greater(length, 0), length, None), pa.string()), pa.binary())

    for batch in table.iter(BATCH):
        for number, field in enumerate(batch.schema):
            column = batch.column(number)  # in its chunks: to combine them would copy every picture
            if pa.types.is_struct(field.type) and {"bytes", "path"} <= {each.name for each in field.type}:
                parts = [sizes(pc.struct_field(column, "bytes")).combine_chunks(), pc.struct_field(column, "path").combine_chunks()]
                batch = batch.set_column(number, field.name, pa.StructArray.from_arrays(parts, ["bytes", "path"]))
            elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                batch = batch.set_column(number, field.name, sizes(column))
        yield from batch.to_pylist()


class _SourceCheck:
    """Do an input's files exist? A folder is listed once, not asked for each of its files: one call to a network disk, not 100,000."""

    def __init__(self, images: Path) -> None:
        self._prefix = f"{images}/".replace("//", "/")
        self._listed: Callable[[str], frozenset[str] | None] = lru_cache(maxsize=256)(_names_in)

    def __call__(self, item: Input) -> None:
        """Raises `SkipRow` for the first missing file, `InputError` for a path outside the folder of the pictures."""
        for part in parts_of(item):
            if isinstance(part, Picture):
                self._check(part.source, "picture missing")
            elif isinstance(part, Video):
                frames = isinstance(part.source, tuple)
                for source in part.source if isinstance(part.source, tuple) else (part.source,):
                    self._check(source, "picture missing" if frames else "video missing")

    def _check(self, source: Any, reason: str) -> None:
        if not isinstance(source, str):
            return
        if not source.startswith(self._prefix) or (".." in source and not os.path.normpath(source).startswith(self._prefix)):
            raise InputError(f"{source} lies outside {self._prefix}; give paths below it, or name another `images` folder in the mixture")
        folder, _, name = source.partition("#page=")[0].rpartition("/")
        names = self._listed(folder)
        if not (name and name in names if names is not None else Path(source).exists()):
            raise SkipRow(reason, source)


def _names_in(folder: str) -> frozenset[str] | None:
    """Names in a folder; None where it may not be listed."""
    try:
        return frozenset(entry.name for entry in os.scandir(folder))
    except PermissionError:
        return None
    except (OSError, ValueError):
        return frozenset()
