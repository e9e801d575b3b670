"""Small pictures of what an index lists, for people who look at results.

A caller names a file only by the number of its row. A file that was changed or replaced after it
was embedded is not shown: its hash tells, or its time if the row's id is not a hash of the file.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

from lame_runtime.contract.media.decoding_limits import Reserve
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.media.pages import PDF_MARK
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError, StorageError, shown
from lame_runtime.files.regular import read_regular
from lame_runtime.search.index import Index
from lame_runtime.search.index_facts import INDEX_FILE

SIDE = 256
"""Longest side of a thumbnail in pixels."""
MAX_FILE_BYTES = 64 << 20
"""Largest file that is read for a thumbnail."""
_HASH = re.compile(r"(?P<sha256>[0-9a-f]{64})(?:[^0-9a-f].*)?", re.DOTALL)


def picture_path(index: Index, values: dict[str, Any]) -> Path | None:
    """Returns the file of a row, or None if the row names none.

    Args:
        index: the index, for the folder that relative paths start from.
        values: the row.
    """
    path = values.get("path")
    return Path(index.facts.root, path) if isinstance(path, str) and path else None


def thumbnail(
    index: Index, row: int, rules: ImageRules, reserve: Reserve | None = None
) -> bytes | None:
    """Returns a JPEG of the file of a row; None if the row names no file.

    Args:
        index: the index.
        row: number of a row.
        rules: limits on pictures.
        reserve: called with the memory that decoding will take, before it is taken.

    Raises:
        InputError: the file is no picture, or was changed since it was indexed.
        StorageError: the file is missing or cannot be read.
        UsageError: there is no such row.
    """
    values = index.row(row)
    path = picture_path(index, values)
    if path is None:
        return None
    try:
        # neither pipes nor devices, which would wait forever
        data = read_regular(path, MAX_FILE_BYTES)
        changed = path.stat().st_mtime_ns > (index.folder / INDEX_FILE).stat().st_mtime_ns
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise StorageError(f"{shown(path)}: cannot be read ({reason})") from None
    # The id of a file by itself is its hash, unless the source gave another. With a text it is a
    # hash of both, and the time of the file has to do.
    match = _HASH.fullmatch(str(values.get("id")))
    if match is not None and not values.get("text"):
        changed = hashlib.sha256(data).hexdigest() != match["sha256"]
    if changed:
        raise InputError(f"{shown(path)}: was changed since it was indexed; embed it again")
    page = values.get("page")
    source: bytes | Path = data
    if data.startswith(PDF_MARK) and isinstance(page, int):
        # pages of bytes have no number; the file was compared just now
        source = Path(f"{path}#page={page}")
    # within the limits of pictures that are embedded
    picture = open_image(source, rules, reserve)
    small = picture.resize(_fitting(picture.size), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
    # small pictures stay as they are
    scale = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
