"""Bytes → JSON → a checked shape. Errors are ours, and name the place in the request."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from lame_runtime.errors import shown
from lame_runtime.serving.api.api_errors import ApiError

ShapeT = TypeVar("ShapeT", bound=msgspec.Struct)

TOKEN_IDS = (
    "token ids cannot be embedded, since they are another tokenizer's: send the text "
    "(LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
)
MAX_VALUES = 1 << 18
"""Most values in a request. Three bytes of JSON become hundreds in memory: a body of 64 MB could
hold 20 million empty objects."""
# the last quote may be missing: a string that never ends would be searched from each quote in it
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(?P<place>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>.*?)`", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<key>\w+)`")
_TYPES = re.compile(r"^Expected `(?P<expected>[^`]*)`, got `(?P<actual>\w+)`")
_WORDS = {
    "str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false",
    "array": "a list", "object": "an object", "null": "null",
}  # fmt: skip


def parse(body: bytes, shape: type[ShapeT]) -> tuple[ShapeT, dict[str, Any]]:
    """Reads a request.

    Returns:
        The checked request, and the JSON that it was made from: objects as dicts, whose keys keep
        their order.

    Raises:
        ApiError: 400, no JSON, an unknown key, a value of another type, or token ids; 413, too many
            values.
    """
    _require_few_values(body)
    try:
        # the raw values go on, because structs do not keep the order of keys
        raw = msgspec.json.decode(body)
        _require_known_keys(raw, shape)
        return msgspec.convert(raw, shape), raw
    except msgspec.ValidationError as error:
        raise _mismatch(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        # its own words may repeat bytes of the body
        raise ApiError(400, "the body is not valid JSON in UTF-8", "invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the JSON is nested too deeply", "invalid_json") from None


def _require_known_keys(raw: Any, shape: type[msgspec.Struct]) -> None:
    # checked here, because msgspec puts the key at the end of its message, and a client's key
    # may hold anything, even text that looks like the place of an item
    if isinstance(raw, dict):
        for key in raw.keys() - set(shape.__struct_encode_fields__):
            raise _unknown_key("the body", key, key)


def _unknown_key(subject: str, key: str, place: str) -> ApiError:
    message = f"{subject} has the unknown key `{shown(key)}`: see /openapi.json for those there are"
    return ApiError(400, message, "unknown_key", param=shown(place))


def _require_few_values(body: bytes) -> None:
    # strings hold commas as well, and are taken out only if that matters, since it takes time
    if _marks(body) > MAX_VALUES and _marks(_STRINGS.sub(b"", body)) > MAX_VALUES:
        message = f"the request has more than {MAX_VALUES:,} values: send several"
        raise ApiError(413, message, "too_many_values")


def _marks(text: bytes) -> int:
    return sum(map(text.count, (b",", b"[", b"{")))


def _mismatch(text: str) -> ApiError:
    """Returns our own words for what msgspec found."""
    # by patterns: the exception has no attributes for its parts
    match = _PLACE.search(text)
    # msgspec writes [...] for a key that it cannot name
    place = match["place"] if match and match["place"] != "[...]" else ""
    subject = f"`{shown(place)}`" if place else "the body"
    if unknown := _UNKNOWN.match(text):
        return _unknown_key(subject, unknown["key"], place)
    if missing := _MISSING.match(text):
        return ApiError(400, f"{subject} lacks `{missing['key']}`", param=place or missing["key"])
    types = _TYPES.match(text)
    if types is None:
        # msgspec does not say which words there are
        # of a list of words, or out of range
        return ApiError(
            400,
            f"{subject} has a value that is not allowed: see /openapi.json",
            param=place or None,
        )
    if types["actual"] in ("int", "float") and place.startswith("input["):
        param = place[: place.index("]") + 1]
        # numbers inside of objects are mistakes of another kind
        if place.count("[") <= 2 and "." not in place:
            return ApiError(400, TOKEN_IDS, "token_ids", param=param)
    expected = " or ".join(_WORDS.get(word, word) for word in types["expected"].split(" | "))
    actual = _WORDS.get(types["actual"], "another type")
    return ApiError(400, f"{subject} must be {expected}, not {actual}", param=place or None)
