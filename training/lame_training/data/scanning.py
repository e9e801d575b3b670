"""Looks at the rows of a table without decoding a picture, for `rows.open_rows`.

Texts and paths are read. Embedded pictures are replaced by their sizes, which Arrow knows without
touching the bytes, so the pictures stay on the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError, shown

from lame_training.data.pairs import Pair, SkipRow, parts_of
from lame_training.data.sources.data_root import DataRoot
from lame_training.data.sources.json_lines import NOT_UNICODE

BATCH_ROWS = 1_000
"""Rows that are converted to Python objects together."""


Hashes = npt.NDArray[np.int64]
"""Hashes or indices of rows, int64 (rows,)."""


def outlines(table: Any) -> Iterator[dict[str, Any] | None]:
    """Yields the rows with every embedded picture replaced by its size, written as bytes.

    A row with a text that is not UTF-8 is None.
    """
    import pyarrow as pa

    for batch in table.iter(BATCH_ROWS):
        outlined = batch
        for number, field in enumerate(batch.schema):
            # The column stays in its chunks: to combine them would copy every picture.
            column = batch.column(number)
            if _is_embedded_picture(field.type):
                outlined = outlined.set_column(number, field.name, _outlined_struct(column))
            elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                outlined = outlined.set_column(number, field.name, _sizes(column))
        try:
            yield from outlined.to_pylist()
        except UnicodeDecodeError:  # before the first row of the batch is yielded
            yield from (_decoded(outlined.slice(row, 1)) for row in range(len(outlined)))


def _decoded(row: Any) -> dict[str, Any] | None:
    """Returns a table of one row as a dict; None if a text of it is not UTF-8."""
    try:
        values: dict[str, Any] = row.to_pylist()[0]
        return values
    except UnicodeDecodeError:
        return None


def check_texts(pair: Pair) -> None:
    """Raises `SkipRow` if a text of a row is not Unicode, so that no tokenizer takes it.

    JSON can hold half an emoji, a lone surrogate, which has no UTF-8.
    """
    texts = [pair.query_decodes, pair.positive_decodes]
    for item in (pair.query, pair.positive, *pair.negatives):
        texts += [item.instruction, *(part for part in parts_of(item) if isinstance(part, str))]
    for text in texts:
        if text is not None and not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise SkipRow(NOT_UNICODE) from None


def _is_embedded_picture(field_type: Any) -> bool:
    """Returns whether a column has the type of the `Image` feature of `datasets`."""
    import pyarrow as pa

    if not pa.types.is_struct(field_type):
        return False
    return {"bytes", "path"} <= {member.name for member in field_type}


def _outlined_struct(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = _sizes(pc.struct_field(column, "bytes")).combine_chunks()
    paths = pc.struct_field(column, "path").combine_chunks()
    return pa.StructArray.from_arrays([sizes, paths], ["bytes", "path"])


def _sizes(column: Any) -> Any:
    """Returns the lengths of binary values as bytes such as b"1234"; null if a value is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Written as bytes so that the formats' readers treat an outlined row like a full one. Empty
    # values become null because the readers treat both as "no picture".
    length = pc.binary_length(column)
    filled = pc.if_else(pc.greater(length, 0), length, None)
    return pc.cast(pc.cast(filled, pa.string()), pa.binary())


class SourceCheck:
    """Checks that the files of an input exist, are regular files and lie in the data.

    A folder is listed once instead of once per file: on a network disk, one call instead of
    100,000.

    Args:
        images: the folder that the paths of the rows have to stay in; absolute and normalized.
        root: the root folder of the data, which links must not lead out of.
    """

    def __init__(self, images: Path, root: DataRoot) -> None:
        self._images = str(images)
        self._prefix = f"{images}/".replace("//", "/")
        self._root = root
        # Bounded, because each video of a data set may have a folder of its own.
        self._folder: Callable[[str], _Folder] = lru_cache(maxsize=256)(self._list)

    def __call__(self, item: Input) -> None:
        """Raises `SkipRow` for the first unusable file, `InputError` for one outside the data."""
        for part in parts_of(item):
            if isinstance(part, Picture):
                self._check(part.source, "picture")
            elif isinstance(part, Video):
                # A tuple holds frames, which are pictures; anything else is one video file.
                if isinstance(part.source, tuple):
                    for frame in part.source:
                        self._check(frame, "picture")
                else:
                    self._check(part.source, "video")

    def _check(self, source: Any, kind: str) -> None:
        if not isinstance(source, str):  # embedded bytes
            return
        # A page of a PDF is written as `a.pdf#page=2`; the file is `a.pdf`.
        path = source.partition("#page=")[0]
        # Normalizing millions of paths is slow, and only one with "." in front can change by it.
        if "/." in path:
            if os.path.normpath(path) == self._images:
                raise SkipRow(f"{kind} is a folder", source)
            if not os.path.normpath(path).startswith(self._prefix):
                raise self._outside(source)
        if not path.startswith(self._prefix):
            raise (
                SkipRow(f"{kind} is a folder", source)
                if path == self._images
                else (self._outside(source))
            )
        folder, _, name = path.rpartition("/")
        listed = self._folder(folder)
        if not listed.inside:
            raise self._outside(source)
        # Almost always: a regular file, known from listing its folder.
        if listed.files is None or name not in listed.files:
            self._look(path, source, kind)

    def _look(self, path: str, source: str, kind: str) -> None:
        """Checks one path by itself: a link, a folder, or a file of a folder that is not listed."""
        try:
            mode = Path(path).stat().st_mode
        except (OSError, ValueError):  # ValueError: a null character, or half an emoji
            raise SkipRow(f"{kind} missing", source) from None
        if not self._root.allows(path):
            raise self._outside(source)
        if stat.S_ISDIR(mode):
            raise SkipRow(f"{kind} is a folder", source)
        if not stat.S_ISREG(mode):
            raise SkipRow(f"{kind} is not a regular file", source)

    def _outside(self, source: str) -> InputError:
        if source.startswith(self._prefix) and ".." not in source:
            return InputError(
                f"{shown(source)} is a link, or lies in one, that leads out of "
                f"{self._root.folder}; copy the files, or allow links with `allow_outside`"
            )
        return InputError(
            f"{shown(source)} lies outside {self._prefix}; "
            "give paths below it, or name another `images` folder in the mixture"
        )

    def _list(self, folder: str) -> _Folder:
        if not self._root.allows(folder):
            return _Folder(inside=False)
        try:
            # The kind of an entry comes with the list; only links and the like are looked at.
            with os.scandir(folder) as entries:
                return _Folder(
                    frozenset(
                        entry.name for entry in entries if entry.is_file(follow_symlinks=False)
                    )
                )
        # A folder that may not be listed may still be read from. ValueError: a null character.
        except (OSError, ValueError):
            return _Folder(None)


@dataclass(frozen=True)
class _Folder:
    """A folder of pictures."""

    files: frozenset[str] | None = None
    """Names of its regular files; None if it could not be listed."""
    inside: bool = True
    """Whether it lies in the data."""


def shared_queries(queries: Hashes, positives: Hashes) -> tuple[int, int]:
    """Counts rows whose query is that of a row with another positive.

    Args:
        queries: int64 (rows,), hashes of the queries.
        positives: int64 (rows,), hashes of the positives.

    Returns:
        The number of these rows, and the number of those with the most frequent query.
    """
    pairs = np.unique(np.stack([queries, positives]), axis=1)
    names, kinds = np.unique(pairs[0], return_counts=True)
    several = names[kinds > 1]
    _, counts = np.unique(queries[np.isin(queries, several)], return_counts=True)
    return int(counts.sum()), int(counts.max(initial=0))
