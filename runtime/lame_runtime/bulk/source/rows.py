"""Rows of a corpus: an input, the columns that are kept of it, and an id made of its content.

The id of a single picture, video or text is the sha256 of its bytes, as `sha256sum` prints it. A
page of a PDF has the file's hash and its number. An input of several parts has the sha256 of a
list of its parts' hashes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lame_runtime.bundle.members import hash_stream
from lame_runtime.contract.media.pages import is_pdf
from lame_runtime.contract.prompts import Input, Part, Picture, Video
from lame_runtime.errors import InputError, first_line, shown
from lame_runtime.files.regular import open_regular
from lame_runtime.inputs import as_input

INPUT_KEYS = ("text", "image", "video", "content", "instruction", "fps")
PLACE_COLUMNS = ("path", "page", "text")
"""Columns that every corpus has: the file, the page of a PDF, and the text; null without one."""
MAX_READ_BYTES = 64 << 20
"""Largest picture that is held in memory between hashing and decoding; a larger one is read
twice."""


@dataclass(slots=True)
class Row:
    """One row of a corpus."""

    id: str
    item: Input | InputError
    """The input, or why there is none."""
    columns: dict[str, Any] = field(default_factory=dict)
    is_given: bool = False
    """Whether the source gave the id."""


def make_row(
    values: Mapping[str, Any], extras: Mapping[str, Any], row_id: object, root: Path | None
) -> Row:
    """Returns a row of a table or a JSONL file.

    Args:
        values: the keys of an input, as `lame_runtime.inputs.InputLike` has them.
        extras: other columns, which are kept.
        row_id: the id that the source gives; None makes one of the content.
        root: folder of relative paths.
    """
    # half surrogate pairs, which JSON can hold and Parquet cannot
    extras = {_utf8(name): value for name, value in extras.items()}
    columns = {**extras, **_place(values, root)}
    given_id = None if row_id is None else _utf8(str(row_id))
    try:
        item = as_input(dict(values), root)
    except InputError as error:
        row_hash = given_id or _hash_of(_plain(values))
        return Row(row_hash, error, columns, is_given=given_id is not None)
    return identified(item, columns, given_id)


def identified(item: Input, columns: dict[str, Any], row_id: str | None = None) -> Row:
    """Returns the row of an input, with its content's id unless one is given.

    A picture is read here once, so that what is embedded is what was hashed.
    """
    # nothing is hashed, and the file is read when it is decoded
    if row_id is not None:
        return Row(row_id, item, columns, is_given=True)
    try:
        hashes, parts = zip(*map(_hashed, item.parts), strict=True) if item.parts else ((), ())
    # the latter for a name with a null character
    except (OSError, ValueError) as error:
        names = [part if isinstance(part, str) else str(part.source) for part in item.parts]
        reason = getattr(error, "strerror", None) or first_line(error)
        # no content, so the names stand for it
        problem = InputError(f"{shown(names[0])}: cannot be read ({reason})")
        return Row(_hash_of(["unreadable", *names]), problem, columns)
    if len(parts) == 1 and not item.instruction:
        return Row(hashes[0], replace(item, **_single(item, parts[0])), columns)
    # with their kinds: a text that reads like a hash is not that picture
    kinds = [type(part).__name__ for part in parts]
    return Row(_hash_of([item.instruction or "", *zip(kinds, hashes, strict=True)]), item, columns)


def unreadable(text: bytes, error: InputError, columns: dict[str, Any]) -> Row:
    """Returns the row of a line that is no input."""
    return Row(hashlib.sha256(text).hexdigest(), error, columns)


def file_columns(name: str) -> dict[str, Any]:
    """Returns the columns of a file or a page of a PDF."""
    path, _, page = name.rpartition("#page=") if is_pdf(name) and "#page=" in name else (name, 0, 0)
    return {"path": path, "page": int(page) if page else None, "text": None}


def _single(item: Input, part: Part) -> dict[str, Any]:
    """Returns the changes to an input whose only part was read."""
    if not isinstance(part, Picture) or not isinstance(part.source, bytes):
        return {}
    # `given` is for contracts that keep the order of keys
    return {
        "text": "",
        "image": None,
        "content": (part,),
        "given": (part,) if item.given else (),
    }


def _hashed(part: Part) -> tuple[str, Part]:
    """Returns the hash of a part, and the part with the bytes that were hashed."""
    if isinstance(part, str):
        return hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest(), part
    source = part.source
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), part
    if isinstance(source, tuple):
        frames = [_hashed(Picture(frame))[0] for frame in source]
        return _hash_of([*frames, getattr(part, "fps", None)]), part
    if not isinstance(source, str | os.PathLike):
        # a picture without a file; corpora hold paths and bytes
        data = getattr(source, "tobytes", bytes)()
        return hashlib.sha256(data).hexdigest(), part
    name = os.fspath(source)
    if is_pdf(name):
        path, _, page = name.rpartition("#page=")
        return f"{_file_hash(path or name)}#page={page}" if path else _file_hash(name), part
    # videos take gigabytes, so they are hashed in pieces and opened again
    if isinstance(part, Video):
        return _file_hash(name), part
    with open_regular(name) as file:
        # by the open file, since every look at a path costs as much as hashing a small picture
        if os.fstat(file.fileno()).st_size > MAX_READ_BYTES:
            return hash_stream(file), part
        data = file.read()
    return hashlib.sha256(data).hexdigest(), Picture(data)


def _file_hash(name: str) -> str:
    status = Path(name).stat()
    return _hash_of_version(name, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _hash_of_version(name: str, _size: int, _time: int) -> str:
    # kept, because every page of a PDF needs that of the file
    with open_regular(name) as file:
        return hash_stream(file)


def _place(values: Mapping[str, Any], root: Path | None) -> dict[str, Any]:
    """Returns the columns that tell a person what a row is."""
    media = values.get("image") or values.get("video")
    text = values.get("text")
    columns: dict[str, Any] = dict.fromkeys(PLACE_COLUMNS)
    # neither bytes nor `data:` URIs, which may hold megabytes
    if isinstance(media, str) and media[:5].lower() != "data:":
        columns = file_columns(str(root / media) if root is not None else media)
    columns["text"] = text if isinstance(text, str) else None
    return columns


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _plain(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value!r}" for key, value in values.items()]


def _hash_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
