"""Converts the accepted forms of an input to an `Input`, and back to JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lame_runtime.contract.prompts import Input, Part, Picture, Video
from lame_runtime.errors import InputError

InputLike = str | os.PathLike[str] | Image.Image | Mapping[str, Any] | Input
"""A `str` is a text and a `Path` names a picture, a video or a PDF; a dict has any of these keys:

    text, instruction    strings
    image                a path, `a.pdf#page=2`, a file's bytes, a PIL picture, or a list of them
    video                a path, a file's bytes, or a list of frames (with `fps`, frames per second)
    content              a list of texts, paths and dicts with one key, in this order
"""

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts"}
)
MIN_FPS, MAX_FPS = 1e-3, 1e4
_PART_KEYS = {"text", "image", "video", "fps"}
_KEYS = _PART_KEYS | {"content", "instruction"}


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
        _check_input(item)
        return item
    # a `str` is always a text; guessing would embed the name of a missing file as a text
    if isinstance(item, str):
        return Input(text=item)
    if isinstance(item, os.PathLike | Image.Image):
        return Input(content=(_from_path(item),))
    if isinstance(item, Mapping):
        return _from_dict(item, root)
    raise InputError(
        f"a {type(item).__name__} is not an input: give a str, a path, a PIL picture or a dict"
    )


def as_json(item: Input, name: Callable[[Any], str]) -> dict[str, Any]:
    """Returns the dict that `as_input` reads back.

    Args:
        item: the input; its videos must be lists of frames.
        name: returns the path that a picture or a frame is stored under.

    Raises:
        InputError: a video is a file, which this function does not decode.
    """
    parts: list[dict[str, Any]] = []
    for part in item.parts:
        if isinstance(part, str):
            parts.append({"text": part})
        elif isinstance(part, Picture):
            parts.append({"image": name(part.source)})
        elif isinstance(part.source, Sequence) and not isinstance(part.source, str | bytes):
            parts.append({"video": [name(frame) for frame in part.source], "fps": part.fps})
        else:
            raise InputError("the video is a file: give its frames as a list to store it")
    return {"content": parts, "instruction": item.instruction}


def _check_input(item: Input) -> None:
    """Checks the types of an `Input`, because a dataclass accepts any value."""
    if not isinstance(item.text, str) or not isinstance(item.instruction, str | None):
        raise InputError("`text` and `instruction` must be strings")
    if not isinstance(item.video, Video | None):
        raise InputError("the `video` of an Input must be a Video; a dict takes a path or frames")
    if not isinstance(item.content, tuple) or any(
        not isinstance(part, str | Picture | Video) for part in item.content
    ):
        raise InputError(
            "the `content` of an Input must be a tuple of texts, Pictures and Videos; "
            "a dict takes a list"
        )
    if not isinstance(item.image, str | os.PathLike | bytes | Image.Image | None):
        raise InputError(
            f"`image` must be a path, bytes or a PIL picture, not {type(item.image).__name__}"
        )


def _from_dict(item: Mapping[str, Any], root: Path | None) -> Input:
    _check_keys(item, _KEYS)
    instruction, text, content = item.get("instruction"), _text(item), item.get("content")
    if not isinstance(instruction, str | None):
        raise InputError("`text` and `instruction` must be strings")
    # without `content` the order is fixed: pictures, video, text
    if content is None:
        return Input(text=text, instruction=instruction, content=tuple(_visuals(item, root)))
    if text or any(_is_given(item, key) for key in ("image", "video", "fps")):
        raise InputError("an input has either `content` or `text`, `image` and `video`, not both")
    if not isinstance(content, list | tuple):
        raise InputError(f"`content` must be a list of parts, not a {type(content).__name__}")
    parts = [part for entry in content for part in _content_parts(entry, root)]
    return Input(instruction=instruction, content=tuple(parts))


def _content_parts(entry: Any, root: Path | None) -> list[Part]:
    """Returns the parts of one entry of `content`; a list of pictures gives several."""
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, os.PathLike | Image.Image):
        return [_from_path(entry)]
    if not isinstance(entry, Mapping):
        raise InputError(
            f"a part of `content` is a {type(entry).__name__}: "
            "give a text, a path, a PIL picture or a dict"
        )
    _check_keys(entry, _PART_KEYS)
    # the keys of a dict have no order, but `content` is about the order
    if sum(_is_given(entry, key) for key in ("text", "image", "video")) > 1:
        raise InputError("a part of `content` has one of `text`, `image` and `video`")
    return [*_visuals(entry, root), _text(entry)]


def _check_keys(item: Mapping[str, Any], allowed: set[str]) -> None:
    if unknown := set(item) - allowed:
        raise InputError(
            f"unknown keys {sorted(map(str, unknown))}: an input may have {sorted(allowed)}"
        )


def _is_given(item: Mapping[str, Any], key: str) -> bool:
    """Returns whether a key has a value; empty strings and lists do not count."""
    value = item.get(key)
    return value is not None and not (isinstance(value, str | list | tuple) and len(value) == 0)


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
        for source in image if isinstance(image, list | tuple) else [image]:
            if not isinstance(source, str | os.PathLike | bytes | Image.Image):
                raise InputError(
                    "`image` must be a path, bytes, a PIL picture or a list of them, "
                    f"not {type(source).__name__}"
                )
            visuals.append(Picture(_below(source, root)))
    fps, video = _fps(item), item.get("video")
    # an empty list of frames is a mistake to report, not a missing video
    if _is_given(item, "video") or isinstance(video, list | tuple):
        visuals.append(Video(_video_source(video, root), fps))
    elif fps is not None:
        raise InputError("`fps` belongs to a `video` given as a list of frames")
    return visuals


def _fps(item: Mapping[str, Any]) -> float | None:
    fps = item.get("fps")
    if fps is None:
        return None
    # bool is a subclass of int, so JSON's true would mean one frame per second
    if not isinstance(fps, int | float) or isinstance(fps, bool):
        raise InputError(f"`fps` must be a number, not {type(fps).__name__}")
    if not MIN_FPS <= fps <= MAX_FPS:
        raise InputError(f"`fps` must lie between {MIN_FPS:g} and {MAX_FPS:,.0f}")
    return float(fps)


def _video_source(video: Any, root: Path | None) -> Any:
    if isinstance(video, np.ndarray):
        # (frames, height, width, 3) is a list of frames; a scalar array is refused below
        video = list(video) if video.ndim else None
    if isinstance(video, list | tuple):
        frame_types = (str, os.PathLike, bytes, Image.Image, np.ndarray)
        if any(not isinstance(frame, frame_types) for frame in video):
            raise InputError(
                "the frames of a `video` must be paths, bytes, PIL pictures or uint8 arrays"
            )
        return tuple(_below(frame, root) for frame in video)
    if not isinstance(video, str | os.PathLike | bytes):
        raise InputError(
            f"`video` must be a path, bytes or a list of frames, not {type(video).__name__}"
        )
    return _below(video, root)


def _below(source: Any, root: Path | None) -> Any:
    """Joins a path given as a string to the root; returns anything else unchanged."""
    return str(root / source) if root is not None and isinstance(source, str) else source


def _from_path(item: os.PathLike[str] | Image.Image) -> Picture | Video:
    if isinstance(item, os.PathLike) and Path(item).suffix.lower() in VIDEO_SUFFIXES:
        return Video(item)
    return Picture(item)
