"""Looks at the rows of a table without decoding a picture, for `rows.open_rows`.

Texts and paths are read. Embedded pictures are replaced by their sizes, which Arrow knows without
touching the bytes, so the pictures stay on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError

from lame_training.data.pairs import SkipRow, parts_of

BATCH_ROWS = 1_000
"""Rows that are converted to Python objects together."""


def outlines(table: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows with every embedded picture replaced by its size, written as bytes."""
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
        yield from outlined.to_pylist()


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
    """Checks that the files of an input exist.

    A folder is listed once instead of once per file: on a network disk, one call instead of
    100,000.

    Args:
        images: the folder that the paths of the rows have to stay in; absolute and normalized.
    """

    def __init__(self, images: Path) -> None:
        self._prefix = f"{images}/".replace("//", "/")
        # Bounded, because each video of a data set may have a folder of its own.
        self._names_in: Callable[[str], frozenset[str] | None] = lru_cache(maxsize=256)(_names_in)

    def __call__(self, item: Input) -> None:
        """Raises `SkipRow` for the first missing file, `InputError` for a path outside `images`."""
        for part in parts_of(item):
            if isinstance(part, Picture):
                self._check(part.source, "picture missing")
            elif isinstance(part, Video):
                # A tuple holds frames, which are pictures; anything else is one video file.
                if isinstance(part.source, tuple):
                    for frame in part.source:
                        self._check(frame, "picture missing")
                else:
                    self._check(part.source, "video missing")

    def _check(self, source: Any, reason: str) -> None:
        if not isinstance(source, str):  # embedded bytes
            return
        # Normalizing millions of paths is slow, and only a path with ".." can change by it.
        leaves = ".." in source and not os.path.normpath(source).startswith(self._prefix)
        if leaves or not source.startswith(self._prefix):
            raise InputError(
                f"{source} lies outside {self._prefix}; "
                "give paths below it, or name another `images` folder in the mixture"
            )
        if not self._exists(source):
            raise SkipRow(reason, source)

    def _exists(self, source: str) -> bool:
        # A page of a PDF is written as `a.pdf#page=2`; the file is `a.pdf`.
        folder, _, name = source.partition("#page=")[0].rpartition("/")
        names = self._names_in(folder)
        return Path(source).exists() if names is None else name in names


def _names_in(folder: str) -> frozenset[str] | None:
    """Returns the names in a folder; None if it may not be listed, though its files may be read."""
    try:
        return frozenset(entry.name for entry in os.scandir(folder))
    except PermissionError:
        return None
    except (OSError, ValueError):  # ValueError: a path with a null byte
        return frozenset()
