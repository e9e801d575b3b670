"""Cases as JSON.

JSON has no bytes, and a case must not hold a path of the machine that it was made on. Three objects
stand for what JSON lacks:

    {"base64": "…"}           bytes
    {"repeat": ["ab", 3]}     "ababab"
    {"raw": "NaN"}            a piece of JSON text, in cases that edit JSON files

The text `{elsewhere}`, also inside bytes, stands for the folder that nothing may open.
"""

from __future__ import annotations

import base64
import json
from typing import Any

Case = dict[str, Any]
ELSEWHERE = "{elsewhere}"


def to_json(case: Case) -> str:
    """Returns a case as JSON text."""
    return json.dumps(_encoded(case), indent=1, sort_keys=True) + "\n"


def from_json(text: str) -> Case:
    """Returns the case of a JSON text."""
    decoded: Case = _decoded(json.loads(text))
    return decoded


def placed(value: Any, elsewhere: str) -> Any:
    """Returns a case with the forbidden folder's path in place of its name, and texts repeated."""
    if isinstance(value, bytes):
        return value.replace(ELSEWHERE.encode(), elsewhere.encode())
    if isinstance(value, str):
        return value.replace(ELSEWHERE, elsewhere)
    if isinstance(value, list):
        return [placed(entry, elsewhere) for entry in value]
    if isinstance(value, dict):
        if set(value) == {"repeat"}:
            text, count = value["repeat"]
            return text * count
        return {placed(key, elsewhere): placed(entry, elsewhere) for key, entry in value.items()}
    return value


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, list):
        return [_encoded(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _encoded(entry) for key, entry in value.items()}
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(entry) for entry in value]
    if isinstance(value, dict):
        if set(value) == {"base64"}:
            return base64.b64decode(value["base64"])
        return {key: _decoded(entry) for key, entry in value.items()}
    return value
