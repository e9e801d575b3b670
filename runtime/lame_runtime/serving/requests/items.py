"""One item of a request → an `Input`, whose media are bytes."""

from __future__ import annotations

from typing import Any

from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError
from lame_runtime.inputs import as_input
from lame_runtime.serving.requests.media_sources import MediaSources, data_kind

_ALIASES = {
    "image_url": "image",
    "image_base64": "image",
    "video_url": "video",
    "video_base64": "video",
}
"""Keys of content parts, and LaME's own."""


def item_input(item: Any, media: MediaSources) -> Input:
    """Converts an item that the request's shape has checked.

    Args:
        item: a string, an object or a list of messages.
        media: reads pictures and videos.

    Raises:
        InputError: it cannot be an input; the message does not name the item.
    """
    if isinstance(item, str):
        kind = data_kind(item)
        # a dict for a text too, so that nothing but bytes can be taken for a file
        return as_input({"text": item} if kind is None else _part(item, media))
    if isinstance(item, list):
        return _conversation(item, media)
    if item.get("content") is None:
        return as_input(_object(item, media))
    # null counts as a key that was left out, since typed clients send all keys
    content = item["content"]
    given = {key for key, value in item.items() if value is not None}
    if extra := given - {"content", "instruction"}:
        raise InputError(f"an input has either `content` or {_listed(extra)}, not both")
    return _of_parts(_parts(content, media), item.get("instruction"))


def holds_media(item: Any) -> bool:
    """Returns whether an item holds pictures or videos; a damaged `data:` URL is none."""
    try:
        return _media_count(item) > 0
    except InputError:
        return False


def require_few_media(item: Any, most: int) -> None:
    """Raises `InputError` if an item has too many pictures and videos, before any is looked at."""
    if (count := _media_count(item)) > most:
        raise InputError(
            f"the input holds {count} pictures and videos, the limit is {most}; leave some out"
        )


def _media_count(entry: Any) -> int:
    """Returns the number of pictures and videos of an item, a message or a part."""
    if entry is None or isinstance(entry, str):
        return entry is not None and data_kind(entry) is not None
    if isinstance(entry, list):
        return sum(map(_media_count, entry))
    if entry.get("content") is not None:
        return _media_count(entry["content"])
    given = {_ALIASES.get(key, key): value for key, value in entry.items() if value is not None}
    image = given.get("image", [])
    # frames make one video
    return (len(image) if isinstance(image, list) else 1) + ("video" in given)


def _of_parts(parts: list[dict[str, Any]], instruction: str | None) -> Input:
    return as_input({"content": parts, "instruction": instruction})


def _conversation(messages: list[dict[str, Any]], media: MediaSources) -> Input:
    """Returns the input of a chat: the system's text is the instruction, the user's are parts."""
    # several messages of the system are one instruction, in their order
    instructions: list[str] = []
    parts: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        if message["role"] == "user":
            parts += _parts(content or [], media)
        elif message["role"] == "system":
            # joined later, since an empty instruction differs from none
            instructions += _texts(content)
        # templates end with an empty answer, which the model's own tokens stand for
        elif "".join(_texts(content)):
            raise InputError("a message of the assistant cannot be embedded: leave it out")
    return _of_parts(parts, "".join(instructions) if instructions else None)


def _texts(content: Any) -> list[str]:
    """Returns the texts of a message that may hold nothing else."""
    if content is None or isinstance(content, str):
        return [content or ""]
    # a picture in an instruction would be lost without a word
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise InputError("pictures and videos belong in a message of the user")
    return texts


def _parts(content: Any, media: MediaSources) -> list[dict[str, Any]]:
    entries = [content] if isinstance(content, str) else content
    return [_part(entry, media) for entry in entries]


def _part(entry: Any, media: MediaSources) -> dict[str, Any]:
    """Returns one part of `content` in LaME's own form."""
    if isinstance(entry, str):
        kind = data_kind(entry)
        if kind is None:
            return {"text": entry}
        return {kind: media.picture(entry) if kind == "image" else media.video(entry)}
    return _object(entry, media)


def _object(entry: dict[str, Any], media: MediaSources) -> dict[str, Any]:
    """Returns an object with LaME's own keys, in their order, and bytes as media."""
    # a type without its key is a mistake that would give the vector of nothing
    kind = entry.get("type")
    if kind is not None and entry.get(kind) is None:
        raise InputError(f"a part of the type {kind} needs the key `{kind}`")
    converted: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "type" or value is None:
            continue
        # the order of the keys is kept: it is that of the parts for some contracts
        name = _ALIASES.get(key, key)
        if name in converted:
            raise InputError(f"`{key}` and another key both give the {name}: send one of them")
        converted[name] = _media(key, value, media)
    return converted


def _media(key: str, value: Any, media: MediaSources) -> Any:
    """Returns the value of a key, with bytes for what is a picture or video."""
    if key in ("image_url", "video_url"):
        url = value["url"] if isinstance(value, dict) else value
        return media.picture(url) if key == "image_url" else media.video(url)
    if key == "image":
        return (
            [media.picture(one) for one in value]
            if isinstance(value, list)
            else (media.picture(value))
        )
    # frames are pictures, but the model reads them as a video
    if key == "video" and isinstance(value, list):
        media.require_video()
        return [media.picture(frame) for frame in value]
    readers = {
        "video": media.video,
        "image_base64": media.picture_base64,
        "video_base64": media.video_base64,
    }
    return readers[key](value) if key in readers else value


def _listed(keys: set[str]) -> str:
    return ", ".join(f"`{key}`" for key in sorted(keys))
