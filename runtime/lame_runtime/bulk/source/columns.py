"""The columns of a table that hold inputs and ids, and the rows of its batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.bulk.source.rows import INPUT_KEYS, PLACE_COLUMNS, Row, make_row
from lame_runtime.bulk.vector_table import RESERVED
from lame_runtime.errors import InputError, shown

KINDS = ("text", "image", "video", "id")
_PATH = "path"
"""Column that is taken for the picture if there is no `image`."""


@dataclass(frozen=True)
class ColumnNames:
    """Names the columns of a source; None takes the one of the usual name, if there is one."""

    text: str | None = None
    image: str | None = None
    video: str | None = None
    id: str | None = None

    def check(self, names: Sequence[str], source: str) -> None:
        """Checks that a table has the named columns, and one that can be embedded.

        Raises:
            InputError: it has not.
        """
        columns = shown(", ".join(names), 400)
        for kind in KINDS:
            name = getattr(self, kind)
            if name is not None and name not in names:
                raise InputError(
                    f"{shown(source)}: has no column {shown(name)!r}, which `{kind}_column` "
                    f"names; it has {columns}"
                )
        if not any(self._name(kind, names) for kind in ("text", "image", "video")):
            raise InputError(
                f"{shown(source)}: has no column `text`, `image`, `path` or `video`, but "
                f"{columns}; name one with `text_column` or `image_column`"
            )

    def renamed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a JSON object with the keys of an input, and `id`."""
        # JSONL has no header, so a key that is missing is missing in its line only
        mapping = {getattr(self, kind): kind for kind in KINDS if getattr(self, kind) is not None}
        # a key that is not named gives way to the one that is
        renamed = {key: value for key, value in values.items() if key not in mapping.values()}
        renamed = {mapping.get(key, key): value for key, value in renamed.items()}
        # as in tables; a path that is no text has its error as a picture
        if "image" not in renamed and "video" not in renamed and _PATH in renamed:
            renamed["image"] = renamed.pop(_PATH)
        return renamed

    def _name(self, kind: str, names: Sequence[str]) -> str | None:
        """Returns the column of a kind; None if the table has none."""
        name: str | None = getattr(self, kind)
        if name is not None:
            return name
        if kind == "image" and kind not in names and self.video != _PATH and _PATH in names:
            return _PATH
        return kind if kind in names else None

    def of(self, names: Sequence[str]) -> dict[str, str]:
        """Returns the kind of each column that holds inputs or ids, by its name."""
        kinds = {kind: self._name(kind, names) for kind in KINDS}
        columns = {name: kind for kind, name in kinds.items() if name is not None}
        return columns | {name: name for name in ("instruction",) if name in names}


def table_rows(
    batch: Mapping[str, Sequence[Any]], columns: ColumnNames, root: Path | None
) -> Iterator[Row]:
    """Yields the rows of a batch of columns.

    Columns that hold inputs become `path`, `page` and `text`; bytes are not kept. All others are.
    """
    kinds = columns.of(list(batch))
    # what the table has columns of its own for is not kept twice
    others = [name for name in batch if name not in kinds and name not in RESERVED + PLACE_COLUMNS]
    size = len(next(iter(batch.values()), ()))
    for name, values_of in batch.items():
        if len(values_of) != size:
            raise InputError(
                f"the batch's column {shown(name)!r} has {len(values_of)} values, and the first "
                f"column {size}: give columns of equal length"
            )
    for number in range(size):
        values: dict[str, Any] = {}
        row_id = None
        for name, kind in kinds.items():
            value = _value(batch[name][number])
            if kind == "id":
                row_id = value
            elif value is not None:
                values[kind] = value
        yield make_row(values, {name: batch[name][number] for name in others}, row_id, root)


def kept_extras(names: Sequence[str]) -> list[str]:
    """Returns the names of the columns of rows that the source brought itself."""
    return [name for name in names if name not in RESERVED + PLACE_COLUMNS + INPUT_KEYS]


def _value(value: Any) -> Any:
    # pictures of Hugging Face's data sets
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path"}:
        return value.get("bytes") or value.get("path")
    # NaN stands for what is missing in pandas
    return None if value is None or value != value else value
