"""The formats a data set's rows may have, by the name a mixture gives them; the one of our own is read here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lame_runtime.contract.prompts import Input, clean
from lame_runtime.errors import InputError
from lame_runtime.inputs import as_input

from lame_training.data.mmeb import MMEB
from lame_training.data.pages import COLPALI, VISRAG
from lame_training.data.pairs import DataSet, Format, Pair, Row, asked, paired, parts_of
from lame_training.data.videos import CAPTION, QUESTION, VIDEO

_KEYS = ("query", "positive", "negatives", "query_decodes", "positive_decodes")


def _read(row: Row, data_set: DataSet, images: Path) -> Pair:
    """One line of our own JSONL.

    `{"query": INPUT, "positive": INPUT, "negatives": [INPUT, …], "query_decodes": TEXT, "positive_decodes": TEXT}`, where
    an input is what `lame_runtime.inputs.as_input` reads: a text, or a dict of `text`, `image`, `video`, `instruction` or
    `content`. The last three keys may be left out; a text to decode that is given takes the place of `target_side`'s.
    """
    if unknown := set(row) - set(_KEYS):
        raise InputError(f"unknown key {min(unknown)!r}; keys are {', '.join(_KEYS)}")
    negatives = row.get("negatives") or []
    if not isinstance(negatives, list):
        raise InputError(f"`negatives` must be a list of inputs, not a {type(negatives).__name__}")
    query, positive, *others = (_input(each, images) for each in (row["query"], row["positive"], *negatives))
    pair = paired(asked(query, data_set), positive, data_set, tuple(others))
    return Pair(
        pair.query,
        pair.positive,
        _text(row, "query_decodes", pair.query_decodes),
        _text(row, "positive_decodes", pair.positive_decodes),
        tuple(negative for negative in pair.negatives if parts_of(negative)),
    )


def _input(value: Any, images: Path) -> Input:
    item = as_input("" if value is None else value, images)
    return replace(item, text=clean(item.text)) if item.text else item


def _text(row: Row, key: str, otherwise: str | None) -> str | None:
    value: Any = row.get(key, otherwise)
    if not isinstance(value, str | None):
        raise InputError(f"`{key}` must be a text, not a {type(value).__name__}")
    return value or None


FORMATS: dict[str, Format] = {
    "mmeb": MMEB,
    "colpali": COLPALI,
    "visrag": VISRAG,
    "llava-hound-caption": CAPTION,
    "llava-hound-video": VIDEO,
    "llava-hound-qa": QUESTION,
    "jsonl": Format(_read, columns=("query", "positive"), optional=("negatives", "query_decodes", "positive_decodes")),
}
