"""Edits of JSON files, as data.

An edit is a list `[operation, path, value]`, where `path` is a list of keys and indices:

    set       puts a value        delete    removes an entry        rename   gives it another key
    repeat    doubles an entry of a list    nest     puts it into a list

A file's edits are applied in order; those that no longer fit are skipped.
"""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

RAW = re.compile(r'"\\u0000raw([0-9a-f]*)\\u0000"')
"""Places where a text that is not JSON is put in."""


def raw(text: str) -> str:
    """Returns a value that is written as `text` itself, such as NaN."""
    return f"\0raw{text.encode().hex()}\0"


VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 65_536, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-9, 1e30, 1e308,
    True, False, None, "", "a", "../x", "/etc/passwd", "{elsewhere}/secret.png", "\x1b[31mred",
    "a\nb", "\ud800", "x" * 3000, [], [0], {}, {"a": 1}, [[]], raw("NaN"), raw("Infinity"),
    raw("-Infinity"), raw("1e999"), raw("9" * 5000), "\0", "<|image_pad|>",
    {"repeat": ["a", 1_000_000]}, raw("-0"), "query", "1", [1, 2, 3], [0.5, 0.5, 0.5], [0, 0, 0],
)  # fmt: skip
DEEP = 5_000


def edits(random: Random, content: Any, count: int | None = None) -> list[list[Any]]:
    """Returns edits that fit a parsed JSON value."""
    paths = list(_paths(content))
    result = []
    for _ in range(count or random.choice((1, 1, 1, 2, 3))):
        path = random.choice(paths)
        operation = random.choices(
            ("set", "delete", "rename", "repeat", "nest", "deep", "near"), (10, 2, 1, 1, 1, 0.5, 4)
        )[0]
        value = random.choice(VALUES) if operation == "set" else None
        if operation == "near":
            operation, value = "set", _near(random, _get(content, path))
        elif operation == "rename":
            value = random.choice(("x", "", "../x", "\x1b[31m", "Fps", "__class__"))
        result.append([operation, path, value])
    return result


def edited(content: Any, changes: list[list[Any]]) -> str:
    """Returns the JSON text of a value after edits; `content` itself is changed."""
    for operation, path, value in changes:
        holder = _get(content, path[:-1]) if path else None
        if not path:
            content = value if operation == "set" else [content]
        elif _fits(holder, path[-1]):
            _apply(holder, path[-1], operation, value)
    text = json.dumps(content)
    return RAW.sub(lambda match: bytes.fromhex(match[1]).decode(), text)


def _apply(holder: Any, key: Any, operation: str, value: Any) -> None:
    if operation == "set":
        holder[key] = value
    elif operation == "delete":
        del holder[key]
    elif operation == "rename" and isinstance(holder, dict):
        holder[value] = holder.pop(key)
    elif operation == "repeat" and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif operation == "nest":
        holder[key] = [holder[key]]
    elif operation == "deep":
        holder[key] = raw("[" * DEEP + "]" * DEEP)


def _near(random: Random, value: Any) -> Any:
    """Returns a value that is like the one there."""
    if isinstance(value, bool) or value is None:
        return random.choice((True, False, None, 1, "true"))
    if isinstance(value, int):
        return random.choice(
            (value + 1, value - 1, -value, value * 2, value // 2, float(value), str(value), [value])
        )
    if isinstance(value, float):
        return random.choice((value * 2, -value, value + 1e-7, 0.0, str(value)))
    if isinstance(value, str):
        return random.choice(
            (value + "x", value[:-1], value.upper(), [value], value * 20, f" {value}")
        )
    return random.choice(([value], {"a": value}, None))


def _paths(content: Any, prefix: tuple[Any, ...] = ()) -> Any:
    yield list(prefix)
    entries = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        entries = enumerate(content[:40])
    for key, value in entries:
        yield from _paths(value, (*prefix, key))


def _get(content: Any, path: list[Any]) -> Any:
    for key in path:
        if not _fits(content, key):
            return None
        content = content[key]
    return content


def _fits(holder: Any, key: Any) -> bool:
    if isinstance(holder, dict):
        return key in holder
    return isinstance(holder, list) and isinstance(key, int) and -len(holder) <= key < len(holder)
