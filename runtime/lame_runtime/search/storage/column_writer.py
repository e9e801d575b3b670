"""Writes the files of a column of an index, batch by batch."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from lame_runtime.search.index_facts import ColumnFacts, ColumnKind
from lame_runtime.search.storage.array_files import ArrayWriter
from lame_runtime.search.storage.index_columns import TYPES, file_names

if TYPE_CHECKING:
    from typing_extensions import Self


class ColumnWriter:
    """Writes one column; use it as a context manager.

    Args:
        folder: the index under construction.
        place: its place in the list of columns.
        name: its name.
        kind: kind of its values.
    """

    def __init__(self, folder: Path, place: int, name: str, kind: ColumnKind) -> None:
        values, utf8, nulls = file_names(place)
        self._name = name
        self._kind = kind
        self._has_nulls = False
        self._end = 0
        self._null_path = folder / nulls
        # closed again if one of them cannot be opened
        with contextlib.ExitStack() as stack:
            self._utf8 = None
            if kind == "text":
                self._utf8 = stack.enter_context((folder / utf8).open("wb"))
            dtype = np.dtype(np.int64) if kind == "text" else TYPES[kind]
            self._values = stack.enter_context(ArrayWriter(folder / values, dtype))
            self._nulls = stack.enter_context(ArrayWriter(self._null_path, np.dtype(np.bool_)))
            self._stack = stack.pop_all()
        if kind == "text":
            # where the first text begins
            self._values.append(np.zeros(1, dtype=np.int64))

    @property
    def facts(self) -> ColumnFacts:
        """Describes the column as far as it was written."""
        return ColumnFacts(self._name, self._kind, self._has_nulls)

    def append(self, values: list[Any]) -> None:
        """Writes the values of rows; None stands for none."""
        nulls = np.array([value is None for value in values], dtype=np.bool_)
        self._has_nulls = self._has_nulls or bool(nulls.any())
        self._nulls.append(nulls)
        if self._utf8 is None:
            # some value has to stand there, and none looks like a null
            empty = TYPES[self._kind].type(0)
            self._values.append(
                np.array([empty if value is None else value for value in values], TYPES[self._kind])
            )
            return
        # half surrogate pairs, which JSON allows, have no UTF-8
        texts = [b"" if value is None else value.encode("utf-8", "replace") for value in values]
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        self._utf8.write(b"".join(texts))
        self._values.append(self._end + np.cumsum(lengths))
        self._end += int(lengths.sum())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        # known only now
        if not self._has_nulls:
            self._null_path.unlink(missing_ok=True)
