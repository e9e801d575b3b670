"""What may be embedded: the forms a caller may give an input in, read into one `Input`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lame_runtime.contract.prompts import Input, Part, Picture, Video
from lame_runtime.errors import InputError

InputLike = str | os.PathLike[str] | Image.Image | Mapping[str, Any] | Input
"""A `str` is a text, a `Path` a picture's, a video's or a PDF's path; a dict has any of the keys below.

    text, instruction    strings
    image                a path, `a.pdf#page=2`, the bytes of a file, a PIL picture, or a list of them
    video                a path, the bytes of a file, or a list of frames (with `fps`, frames per second)
    content              a list of the above in their order, each a text, a path or a dict with one of the keys
"""

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts"})
_KEYS = {"text", "image", "video", "fps", "content", "instruction"}


def as_input(item: InputLike, root: Path | None = None) -> Input:
    """Reads one of the accepted forms.

    Args:
        item: the input.
        root: where relative paths given as strings begin; None leaves them as they are.

    Raises:
        InputError: another type, or a dict with unknown or mistyped values.
    """
    if isinstance(item, Input):
        if not isinstance(item.text, str) or not isinstance(item.instruction, str | None):
            raise InputError("`text` and `instruction` must be strings")
        if not isinstance(item.video, Video | None):
            raise InputError("the `video` of an Input must be a Video; a dict takes a path or frames")
        if not isinstance(item.content, tuple) or any(not isinstance(part, str | Picture | Video) for part in item.content):
            raise InputError("the `content` of an Input must be a tuple of texts, Pictures and Videos; a dict takes a list")
        if not isinstance(item.image, str | os.PathLike | bytes | Image.Image | None):
            raise InputError(f"`image` must be a path, bytes or a PIL picture, not {type(item.image).__name__}")
        return item
    if isinstance(item, str):
        return Input(text=item)
    if isinstance(item, os.PathLike | Image.Image):
        return Input(content=(_from_path(item),))
    if not isinstance(item, Mapping):
        raise InputError(f"a {type(item).__name__} is not an input: give a str, a path, a PIL picture or a dict")
    _check_keys(item, _KEYS)
    instruction, text, content = item.get("instruction"), _text(item), item.get("content")
    if not isinstance(instruction, str | None):
        raise InputError("`text` and `instruction` must be strings")
    if content is None:
        return Input(text=text, instruction=instruction, content=tuple(_visuals(item, root)))
    if text or any(_given(item, key) for key in ("image", "video", "fps")):
        raise InputError("an input has either `content` or `text`, `image` and `video`, not both")
    if not isinstance(content, list | tuple):
        raise InputError(f"`content` must be a list of parts, not a {type(content).__name__}")
    return Input(instruction=instruction, content=tuple(part for each in content for part in _content(each, root)))


def _content(each: Any, root: Path | None) -> list[Part]:
    if isinstance(each, str):
        return [each]
    if isinstance(each, os.PathLike | Image.Image):
        return [_from_path(each)]
    if not isinstance(each, Mapping):
        raise InputError(f"a part of `content` is a {type(each).__name__}: give a text, a path, a PIL picture or a dict")
    _check_keys(each, {"text", "image", "video", "fps"})
    if sum(_given(each, key) for key in ("text", "image", "video")) > 1:
        raise InputError("a part of `content` has one of `text`, `image` and `video`")
    return [*_visuals(each, root), _text(each)]


def _check_keys(item: Mapping[str, Any], known: set[str]) -> None:
    if unknown := set(item) - known:
        raise InputError(f"unknown keys {sorted(map(str, unknown))}: an input may have {sorted(known)}")


def _given(item: Mapping[str, Any], key: str) -> bool:
    value = item.get(key)
    return value is not None and not (isinstance(value, str | list | tuple) and len(value) == 0)


def _text(item: Mapping[str, Any]) -> str:
    text = item.get("text")
    if not isinstance(text, str | None):
        raise InputError("`text` and `instruction` must be strings")
    return text or ""


def _visuals(item: Mapping[str, Any], root: Path | None) -> list[Part]:
    """The pictures and the video of a dict."""
    found: list[Part] = []
    if _given(item, "image"):
        image = item["image"]
        for each in image if isinstance(image, list | tuple) else [image]:
            if not isinstance(each, str | os.PathLike | bytes | Image.Image):
                raise InputError(f"`image` must be a path, bytes, a PIL picture or a list of them, not {type(each).__name__}")
            found.append(Picture(_rooted(each, root)))
    fps, video = item.get("fps"), item.get("video")
    if not (fps is None or (isinstance(fps, int | float) and not isinstance(fps, bool))):
        raise InputError(f"`fps` must be a number, not {type(fps).__name__}")
    if fps is not None and not 1e-3 <= fps <= 1e4:
        raise InputError("`fps` must lie between 0.001 and 10,000")
    if _given(item, "video") or isinstance(video, list | tuple):
        found.append(Video(_video_source(video, root), None if fps is None else float(fps)))
    elif fps is not None:
        raise InputError("`fps` belongs to a `video` given as a list of frames")
    return found


def _video_source(video: Any, root: Path | None) -> Any:
    if isinstance(video, np.ndarray):
        video = list(video) if video.ndim else None
    if isinstance(video, list | tuple):
        if any(not isinstance(frame, str | os.PathLike | bytes | Image.Image | np.ndarray) for frame in video):
            raise InputError("the frames of a `video` must be paths, bytes, PIL pictures or uint8 arrays")
        return tuple(_rooted(frame, root) for frame in video)
    if not isinstance(video, str | os.PathLike | bytes):
        raise InputError(f"`video` must be a path, bytes or a list of frames, not {type(video).__name__}")
    return _rooted(video, root)


def _rooted(source: Any, root: Path | None) -> Any:
    return str(root / source) if root is not None and isinstance(source, str) else source


def _from_path(item: os.PathLike[str] | Image.Image) -> Picture | Video:
    if isinstance(item, os.PathLike) and Path(item).suffix.lower() in VIDEO_SUFFIXES:
        return Video(item)
    return Picture(item)


def as_json(item: Input, name: Any) -> dict[str, Any]:
    """The dict that `as_input` reads back.

    Args:
        item: the input.
        name: gives, for a picture or a frame, the path it is stored under.
    """
    parts: list[dict[str, Any]] = []
    for part in item.parts:
        if isinstance(part, str):
            parts.append({"text": part})
        elif isinstance(part, Picture):
            parts.append({"image": name(part.source)})
        else:
            assert isinstance(part.source, Sequence)
            parts.append({"video": [name(frame) for frame in part.source], "fps": part.fps})
    return {"content": parts, "instruction": item.instruction}
