"""Converts the accepted forms of an input to an `Input`."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from lame_runtime.arguments import MAX_FPS, MIN_FPS, scalar
from lame_runtime.contract.media.images import array_image
from lame_runtime.contract.prompts import Input, Part, Picture, Video
from lame_runtime.errors import InputError, shown
from lame_runtime.files.in_memory import as_bytes, is_binary
from lame_runtime.files.urls import path_name, resolved

InputLike = (
    str
    | os.PathLike[str]
    | Image.Image
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | np.ndarray[Any, np.dtype[np.uint8]]
    | Mapping[str, Any]
    | Input
)
"""A `str` is a text and a `Path` names a picture, a video or a PDF. The bytes of a file, a file
that is open in binary mode and a uint8 array (height, width, 3) are pictures. A dict has any of
these keys:

    text, instruction    strings
    image                one or a list of: path, `a.pdf#page=2`, `data:` URI, bytes, open file, PIL
                         picture, uint8 array
    video                a path, `data:` URI, bytes, open file, or list of frames with their `fps`
    content              a list of texts, paths and dicts with one key, in this order
"""

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts"}
)
_PART_KEYS = {"text", "image", "video", "fps"}
_KEYS = _PART_KEYS | {"content", "instruction"}


def is_single(item: object) -> bool:
    """Returns whether an object is one input rather than an iterable of inputs.

    A file in text mode is an iterable of lines. An array of four dimensions is an iterable of
    pictures, and one of strings an iterable of texts.
    """
    if isinstance(item, np.ndarray):
        return item.ndim == 0 or (item.ndim < 4 and item.dtype.kind not in "OSUT")
    return isinstance(item, str | os.PathLike | Image.Image | Mapping | Input) or is_binary(item)


def as_input(item: InputLike, root: Path | None = None) -> Input:
    """Converts an input in one of the accepted forms.

    Args:
        item: the input.
        root: folder that relative paths given as strings start from; None leaves them unchanged.

    Raises:
        InputError: the type is not accepted, or a dict has unknown keys or values of a wrong type.

    Example:
        >>> as_input({"image": "a.png", "text": "a caption"}).modality
        'image+text'
    """
    if isinstance(item, Input):
        return _checked(item)
    # a `str` is always a text; guessing would embed the name of a missing file as a text
    if isinstance(item, str):
        return Input(text=item)
    if isinstance(item, Mapping):
        return _from_dict(item, root)
    if isinstance(item, os.PathLike | Image.Image | np.ndarray) or is_binary(item):
        return Input(content=(_from_object(item),))
    raise InputError(
        f"an object of the type {type(item).__name__} is not an input: give a str, a path, a PIL "
        'picture or a dict, such as {"image": bytes}'
    )


def _checked(item: Input) -> Input:
    """Checks the types of an `Input`, because a dataclass accepts any value."""
    if not isinstance(item.text, str) or not isinstance(item.instruction, str | None):
        raise InputError("`text` and `instruction` must be strings")
    if not isinstance(item.video, Video | None):
        raise InputError("the `video` of an Input must be a Video; a dict takes a path or frames")
    parts = (item.content, item.given)
    if any(not isinstance(listed, tuple) or not all(map(_is_part, listed)) for listed in parts):
        raise InputError(
            "the `content` of an Input must be a tuple of texts, Pictures and Videos; "
            "a dict takes a list"
        )
    return replace(
        item,
        image=None if item.image is None else _picture_source(item.image),
        video=None if item.video is None else _checked_part(item.video),
        content=tuple(map(_checked_part, item.content)),
        given=tuple(map(_checked_part, item.given)),
    )


def _is_part(part: object) -> bool:
    return isinstance(part, str | Picture | Video)


def _checked_part(part: Any) -> Any:
    """Returns a text, or a Picture or Video whose source has a type that is read."""
    if isinstance(part, Picture):
        return Picture(_picture_source(part.source))
    return part if isinstance(part, str) else Video(_video_source(part.source), _fps(part.fps))


def _from_dict(item: Mapping[str, Any], root: Path | None) -> Input:
    _check_keys(item, _KEYS)
    instruction, text, content = item.get("instruction"), _text(item), item.get("content")
    if not isinstance(instruction, str | None):
        raise InputError("`text` and `instruction` must be strings")
    # the order is pictures, video, text, unless the contract takes that of the keys
    if content is None:
        visuals, keys = _visuals(item, root), list(item)
        parts = [*visuals, text] if text else visuals
        # stable, so that the pictures of one key keep their order
        given = sorted(parts, key=lambda part: keys.index(_key(part)))
        return Input(text, instruction=instruction, content=tuple(visuals), given=tuple(given))
    if text or any(_is_given(item, key) for key in ("image", "video", "fps")):
        raise InputError("an input has either `content` or `text`, `image` and `video`, not both")
    if not isinstance(content, list | tuple):
        raise InputError(
            f"`content` must be a list of parts, not of the type {type(content).__name__}"
        )
    parts = [part for entry in content for part in _content_parts(entry, root)]
    return Input(instruction=instruction, content=tuple(parts))


def _key(part: Part) -> str:
    return "text" if isinstance(part, str) else "image" if isinstance(part, Picture) else "video"


def _content_parts(entry: Any, root: Path | None) -> list[Part]:
    """Returns the parts of one entry of `content`; a list of pictures gives several."""
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, os.PathLike | Image.Image | np.ndarray) or is_binary(entry):
        return [_from_object(entry)]
    if not isinstance(entry, Mapping):
        raise InputError(
            f"a part of `content` is of the type {type(entry).__name__}: "
            'give a text, a path, a PIL picture or a dict, such as {"image": bytes}'
        )
    _check_keys(entry, _PART_KEYS)
    # the keys of a dict have no order, but `content` is about the order
    if sum(_is_given(entry, key) for key in ("text", "image", "video")) > 1:
        raise InputError("a part of `content` has one of `text`, `image` and `video`")
    return [*_visuals(entry, root), _text(entry)]


def _check_keys(item: Mapping[str, Any], allowed: set[str]) -> None:
    if unknown := set(item) - allowed:
        raise InputError(
            f"unknown keys {shown(sorted(map(shown, unknown)))}: "
            f"an input may have {sorted(allowed)}"
        )


def _is_given(item: Mapping[str, Any], key: str) -> bool:
    """Returns whether a key has a value; an empty text and an empty list do not count."""
    value = item.get(key)
    empty = (str, list, tuple) if key == "text" else (list, tuple)  # an empty name is a mistake
    return value is not None and not (isinstance(value, empty) and len(value) == 0)


def _text(item: Mapping[str, Any]) -> str:
    text = item.get("text")
    if not isinstance(text, str | None):
        raise InputError("`text` and `instruction` must be strings")
    return text or ""


def _visuals(item: Mapping[str, Any], root: Path | None) -> list[Part]:
    """Returns the pictures and the video of a dict."""
    visuals: list[Part] = []
    if _is_given(item, "image"):
        image = item["image"]
        sources = image if isinstance(image, list | tuple) else [image]
        visuals += [Picture(_picture_source(source, root)) for source in sources]
    fps, video = _fps(item.get("fps")), item.get("video")
    # an empty list of frames is a mistake to report, not a missing video
    if _is_given(item, "video") or isinstance(video, list | tuple):
        visuals.append(Video(_video_source(video, root), fps))
    elif fps is not None:
        raise InputError("`fps` belongs to a `video` given as a list of frames")
    return visuals


def _fps(fps: Any) -> float | None:
    if fps is None:
        return None
    value = scalar(fps)
    # bool is a subclass of int, so JSON's true would mean one frame per second
    if not isinstance(value, numbers.Real | Decimal) or isinstance(value, bool):
        raise InputError(f"`fps` must be a number, not of the type {type(fps).__name__}")
    try:
        rate = float(value)
    except (OverflowError, ValueError):
        rate = float("nan")
    if not MIN_FPS <= rate <= MAX_FPS:
        raise InputError(f"`fps` must lie between {MIN_FPS:g} and {MAX_FPS:,.0f}")
    return rate


def _picture_source(source: Any, root: Path | None = None) -> Any:
    """Returns a picture as a path, bytes or a PIL picture."""
    if isinstance(source, np.ndarray):
        return array_image(source)
    if is_binary(source):
        return as_bytes(source)
    if not isinstance(source, str | os.PathLike | Image.Image):
        raise InputError(
            "`image` must be a path, bytes, an open file, a PIL picture, a uint8 array (height, "
            f"width, 3) or a list of them, not of the type {type(source).__name__}"
        )
    return _named(source, "image", root)


def _video_source(video: Any, root: Path | None = None) -> Any:
    if isinstance(video, np.ndarray) and video.ndim:
        video = list(video)  # (frames, height, width, 3)
    if isinstance(video, list | tuple):
        return tuple(_frame(frame, root) for frame in video)
    if is_binary(video):
        return as_bytes(video)
    if not isinstance(video, str | os.PathLike):
        raise InputError(
            "`video` must be a path, bytes, an open file or a list of frames, "
            f"not of the type {type(video).__name__}"
        )
    return _named(video, "video", root)


def _frame(frame: Any, root: Path | None) -> Any:
    # arrays stay as they are until they are read, one at a time
    if isinstance(frame, Image.Image | np.ndarray):
        return frame
    if is_binary(frame):
        return as_bytes(frame)
    if isinstance(frame, str | os.PathLike):
        return _named(frame, "video", root)
    raise InputError(
        "the frames of a `video` must be paths, bytes, open files, PIL pictures or uint8 arrays"
    )


def _named(source: Any, key: str, root: Path | None) -> Any:
    """Joins a path given as a string to the root, and decodes a `data:` URI.

    Raises:
        InputError: an empty name, a URL, or an object that gives no path.
    """
    if not isinstance(source, str):
        return resolved(source)
    if not source.strip():
        raise InputError(f"the name of a file in `{key}` is empty; leave the key out, or name one")
    source = resolved(source)
    return str(root / source) if root is not None and isinstance(source, str) else source


def _from_object(item: Any) -> Picture | Video:
    """Returns the part that an object other than a text or a dict stands for."""
    if isinstance(item, os.PathLike) and Path(path_name(item)).suffix.lower() in VIDEO_SUFFIXES:
        return Video(item)
    return Picture(_picture_source(item))
