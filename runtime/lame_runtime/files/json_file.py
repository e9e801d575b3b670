"""Reads JSON of unknown origin: bounded in size and depth, and without NaN.

Python's `json` ends in a `RecursionError` for deep nesting and reads `NaN` and `Infinity`, which
are not JSON and pass every comparison with a bound.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any, NoReturn

from lame_runtime.errors import shown
from lame_runtime.files.regular import read_regular

MAX_JSON_BYTES = 256 << 20
"""Largest JSON file that is read; tokenizers of large vocabularies take about 12 MB."""


def parse_json(text: str | bytes, *, strict: bool = False, finite: bool = False) -> Any:
    """Returns the value of a JSON text.

    Args:
        text: the text, or its bytes in UTF-8.
        strict: refuse objects that hold a key twice, of which Python would take the last and other
            readers the first. NaN and the infinities are then read, because what is read strictly
            goes through `contract.strict_json`, which refuses them by the name of their field.
        finite: refuse NaN and the infinities of what is read strictly, too.

    Raises:
        ValueError: the text is not JSON, not UTF-8, nested too deeply, or holds NaN, an infinity or
            a number with thousands of digits.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique if strict else None,
            parse_constant=None if strict and not finite else _refuse_constant,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | os.PathLike[str], most: int = MAX_JSON_BYTES) -> Any:
    """Returns the value of a JSON file; a byte order mark is skipped.

    Args:
        path: a regular file in UTF-8.
        most: largest size in bytes.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than `most`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_regular(path, most).decode("utf-8-sig"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(repeated)!r} occurs twice")
    return unique
