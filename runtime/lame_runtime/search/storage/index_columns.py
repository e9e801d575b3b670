"""Columns of an index beside its vectors, each in files of its own that are memory-mapped.

    column-0.npy        values; of a text the places (n + 1,) where its UTF-8 begins and ends
    column-0.utf8       the UTF-8 of all texts, one after the other
    column-0-nulls.npy  which rows have no value, if there are any

That is how Arrow lays columns out, so one value is read without reading those before it, and a
filter looks at one column without looking at the others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.errors import StorageError, UsageError, shown
from lame_runtime.search.index_facts import ColumnFacts
from lame_runtime.search.storage.array_files import map_array, map_bytes

Mask = npt.NDArray[np.bool_]

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TYPES = {"integer": np.dtype("<i8"), "number": np.dtype("<f8"), "boolean": np.dtype("?")}
_BOOLEANS = {"true": True, "false": False}


def file_names(place: int) -> tuple[str, str, str]:
    """Returns the names of the files of a column: values, UTF-8, nulls."""
    return f"column-{place}.npy", f"column-{place}.utf8", f"column-{place}-nulls.npy"


class Column:
    """A column of an index.

    Args:
        folder: the index.
        place: its place in the list of columns.
        facts: name, kind, and whether it has nulls.
        rows: number of rows.

    Raises:
        StorageError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, place: int, facts: ColumnFacts, rows: int) -> None:
        values, utf8, nulls = file_names(place)
        self.facts = facts
        self._folder = shown(folder)
        self._rows = rows
        self._nulls: Mask | None = None
        if facts.has_nulls:
            self._nulls = map_array(folder / nulls, np.dtype("?"), (rows,))
        self._is_text = facts.kind == "text"
        if self._is_text:
            self._values = map_array(folder / values, np.dtype("<i8"), (rows + 1,))
            self._utf8 = map_bytes(folder / utf8, int(self._values[-1]))
        else:
            self._values = map_array(folder / values, TYPES[facts.kind], (rows,))

    @property
    def _damaged(self) -> StorageError:
        name = shown(self.facts.name)
        return StorageError(f"{self._folder}: its column {name!r} is damaged; copy the index again")

    def value(self, row: int) -> Any:
        """Returns the value of a row; None if it has none."""
        if self._nulls is not None and self._nulls[row]:
            return None
        if not self._is_text:
            return self._values[row].item()
        # two places of eight bytes, so no text before is read
        start, end = self._values[row : row + 2]
        if not 0 <= start <= end <= len(self._utf8):
            raise self._damaged
        return self._utf8[start:end].tobytes().decode("utf-8", "replace")

    def matches(self, sign: str, value: object) -> Mask:
        """Returns which rows (n,) have a value that compares so; a row without one never does.

        Args:
            sign: one of `COMPARISONS`.
            value: a text, number or bool, or the text of one.

        Raises:
            UsageError: the value is of another kind, or texts are compared by order.
        """
        if self._is_text:
            mask = self._text_matches(sign, value)
        else:
            mask = np.asarray(COMPARISONS[sign](self._values, self._parsed(value)))
        return mask if self._nulls is None else mask & ~self._nulls

    def _parsed(self, value: object) -> Any:
        kind = self.facts.kind
        if kind == "boolean":
            text = str(value).lower()
            if text in _BOOLEANS:
                return _BOOLEANS[text]
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                # an integer is compared as one, because 2⁵³ + 1 is no float
                return int(value) if kind == "integer" else float(value)
            except (ValueError, OverflowError):
                pass
        raise UsageError(
            f"the column {shown(self.facts.name)!r} holds values of the type {kind}, and "
            f"{shown(repr(value))} is not one"
        )

    def _text_matches(self, sign: str, value: object) -> Mask:
        if sign not in ("=", "!="):
            raise UsageError(
                f"the column {shown(self.facts.name)!r} holds texts: compare it with = or !="
            )
        wanted = np.frombuffer(str(value).encode("utf-8", "surrogatepass"), dtype=np.uint8)
        starts = self._values[:-1]
        # most texts differ in length, which takes no look at them
        lengths = np.diff(self._values)
        if len(lengths) and lengths.min() < 0:
            raise self._damaged
        mask: Mask = lengths == len(wanted)
        # one character at a time, and only where those before it were right
        rows = np.flatnonzero(mask)
        for place, character in enumerate(wanted):
            if not len(rows):
                break
            differing = self._utf8[starts[rows] + place] != character
            mask[rows[differing]] = False
            rows = rows[~differing]
        return mask if sign == "=" else ~mask
