"""Conditions on columns, such as `label=7`, that the rows of a search must meet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lame_runtime.arguments import described
from lame_runtime.errors import UsageError, shown

_SIGN = re.compile(r"!=|<=|>=|[=<>]")
MOST_CONDITIONS = 100
MOST_CHARACTERS = 10_000
"""Longest condition: a client of the server may send it, and every character takes time."""

Where = str | Iterable[str] | Mapping[str, Any] | None
"""One or several conditions as text, or a dict from columns to values; a list stands for any of its
values."""


@dataclass(frozen=True)
class Condition:
    """One condition: any of the values may compare so."""

    column: str
    sign: str
    values: tuple[Any, ...]


def parse_where(where: Where) -> list[Condition]:
    """Returns the conditions that all have to hold.

    >>> parse_where("label = 7")
    [Condition(column='label', sign='=', values=('7',))]

    Raises:
        UsageError: a text is not a condition, or `where` is of another type.
    """
    if where is None:
        return []
    # values in a dict keep their types; those in words get the type of the column
    if isinstance(where, Mapping):
        conditions = [
            Condition(str(column), "=", tuple(value) if isinstance(value, list) else (value,))
            for column, value in where.items()
        ]
    else:
        try:
            # a text alone would be taken for a list of characters
            texts = [where] if isinstance(where, str) else list(where)
        except TypeError:
            raise UsageError(
                f"`where` is {described(where)}: give conditions such as 'label=7', or a dict"
            ) from None
        conditions = [_parsed(text) for text in texts]
    # each one reads a whole column, and a client of the server may send them
    if len(conditions) > MOST_CONDITIONS:
        raise UsageError(
            f"`where` has {len(conditions):,} conditions: use at most {MOST_CONDITIONS}"
        )
    return conditions


def _parsed(text: object) -> Condition:
    # looking for the sign alone takes time that grows with the length, not with its square
    match = _SIGN.search(text) if isinstance(text, str) else None
    if isinstance(text, str) and len(text) > MOST_CHARACTERS:
        raise UsageError(f"`where` has {len(text):,} characters: use at most {MOST_CHARACTERS:,}")
    column = "" if match is None else match.string[: match.start()].strip()
    if match is None or not column:
        raise UsageError(
            f"`where` holds {described(text)}: write COLUMN=VALUE, or with !=, <, <=, > or >="
        )
    return Condition(column, match[0], (match.string[match.end() :].strip(),))


def unknown_column(name: str, names: Iterable[str]) -> UsageError:
    """Returns the error for a column that an index does not have."""
    return UsageError(
        f"`where` asks for the column {shown(name)!r}, which the index does not have: "
        f"use {shown(', '.join(names), 400)}"
    )
