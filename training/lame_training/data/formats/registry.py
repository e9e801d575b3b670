"""The formats that a data set's rows may have, by the name a mixture gives them.

The published formats are read by the modules beside this one. Our own format is read here: JSONL
whose lines hold any input that `lame_runtime.inputs.as_input` accepts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lame_runtime.contract.prompts import Input, clean
from lame_runtime.errors import InputError, shown
from lame_runtime.inputs import as_input

from lame_training.data.formats.conversations import CAPTION, QUESTION, VIDEO
from lame_training.data.formats.documents import COLPALI, VISRAG
from lame_training.data.formats.mmeb import MMEB
from lame_training.data.pairs import (
    DataSet,
    Format,
    Pair,
    RawRow,
    make_pair,
    parts_of,
    with_instruction,
)

_KEYS = ("query", "positive", "negatives", "query_decodes", "positive_decodes")


def _read_own_line(row: RawRow, data_set: DataSet, images: Path) -> Pair:
    """Reads one line of our own JSONL.

    A line is `{"query": INPUT, "positive": INPUT, "negatives": [INPUT, …], "query_decodes": TEXT,
    "positive_decodes": TEXT}`. An input is what `lame_runtime.inputs.as_input` reads: a text, or a
    dict of `text`, `image`, `video`, `instruction` or `content`. The last three keys may be left
    out. A text to decode that is given replaces the one that `target_side` would choose.
    """
    # A misspelled key, such as "negative", would otherwise be ignored without a sign.
    if unknown := set(row) - set(_KEYS):
        raise InputError(f"unknown key {shown(repr(min(unknown)))}; keys are {', '.join(_KEYS)}")
    negatives = row.get("negatives") or []
    if not isinstance(negatives, list):
        raise InputError(f"`negatives` must be a list of inputs, not a {type(negatives).__name__}")
    query, positive, *hard_negatives = (
        _read_input(value, images) for value in (row["query"], row["positive"], *negatives)
    )
    pair = make_pair(with_instruction(query, data_set), positive, data_set, tuple(hard_negatives))
    # What the row says about texts to decode goes before what `make_pair` chose.
    return Pair(
        pair.query,
        pair.positive,
        _text(row, "query_decodes", pair.query_decodes),
        _text(row, "positive_decodes", pair.positive_decodes),
        tuple(negative for negative in pair.negatives if parts_of(negative)),
    )


def _read_input(value: Any, images: Path) -> Input:
    # A null makes an empty input, and `make_pair` skips its row; a missing key is an error.
    item = as_input("" if value is None else value, images)
    # `parts_of` relies on clean texts.
    return replace(item, text=clean(item.text)) if item.text else item


def _text(row: RawRow, key: str, default: str | None) -> str | None:
    """Returns a row's text to decode. An explicit null or empty text turns the default off."""
    value: Any = row.get(key, default)
    if not isinstance(value, str | None):
        raise InputError(f"`{key}` must be a text, not a {type(value).__name__}")
    return value or None


OWN_JSONL = Format(
    _read_own_line,
    columns=("query", "positive"),
    optional=("negatives", "query_decodes", "positive_decodes"),
)

FORMATS: dict[str, Format] = {
    "mmeb": MMEB,
    "colpali": COLPALI,
    "visrag": VISRAG,
    "llava-hound-caption": CAPTION,
    "llava-hound-video": VIDEO,
    "llava-hound-qa": QUESTION,
    "jsonl": OWN_JSONL,
}
