"""Pictures that lie inside parquet files or videos, put on the disk by the hash of their content.

A corpus of pages takes tens of gigabytes, too much to hold in memory while it is embedded; a path is cheap, and a
picture that occurs twice, in one data set or in two, is stored once.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.atomic import atomic_path
from lame_runtime.errors import InputError

from lame_training.suites.folders import make_folder

SAVED_FRAMES = 64
SAMPLED_FRAMES = 8
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


class PictureStore:
    """A folder of pictures named by sha256.

    Args:
        folder: made when the first picture arrives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Stores the bytes of a picture file, whole or not at all, and returns its path."""
        digest = hashlib.sha256(content).hexdigest()
        target = self.folder / digest[:2] / digest
        if not target.is_file():
            make_folder(target.parent, "--cache")
            with atomic_path(target) as path:
                path.write_bytes(content)
        return str(target)

    def cell(self, value: Any) -> str:
        """Stores a cell of a parquet column of pictures, `{"bytes": …, "path": …}` as `datasets` writes them, and returns its path.

        Raises:
            ValueError: the cell holds no bytes.
        """
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes) or not content:
            raise ValueError("its picture is missing")
        return self.put(content)

    def frames(self, folder: Path, video: Path | None = None) -> tuple[str, ...]:
        """Paths of the frames a model sees of a video: 8 spread evenly over those saved in `folder`, all where there are fewer.

        Where the folder has none, up to 64 are taken evenly from the file `video` first, as the benchmark's code does.

        Raises:
            ValueError: there are neither frames nor a video, or the video cannot be decoded.
            InputError: PyAV is not installed.
        """
        saved = sorted((each for each in _listed(folder) if each.suffix.lower() in FRAME_SUFFIXES), key=_natural)
        paths = [str(each) for each in saved]
        if not paths:
            if video is None or not video.is_file():
                raise ValueError(f"it has neither frames in {folder}" + (f" nor the file {video}" if video else ""))
            paths = [self.put(content) for content in _decode(video)]
        if len(paths) <= SAMPLED_FRAMES:
            return tuple(paths)
        return tuple(paths[index] for index in np.linspace(0, len(paths) - 1, SAMPLED_FRAMES, dtype=int))


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _natural(path: Path) -> list[tuple[int, str]]:
    """Numbers inside the name by value, so that frame 10 comes behind frame 9."""
    parts: list[tuple[int, str]] = []
    number = ""
    for sign in path.name.lower() + "\0":
        if sign.isdigit():
            number += sign
            continue
        if number:
            parts.append((int(number), ""))
            number = ""
        parts.append((-1, sign))
    return parts


def _decode(video: Path) -> list[bytes]:
    """PNG files of up to 64 frames, evenly spread."""
    try:
        import av
    except ModuleNotFoundError:
        raise InputError(f"{video}: reading videos needs PyAV; pip install 'lame-runtime[video]'") from None
    try:
        with av.open(str(video)) as container:
            total = sum(1 for _ in container.decode(video=0))
        step = max(1.0, total / SAVED_FRAMES)
        wanted = {int(index * step) for index in range(min(total, SAVED_FRAMES))}
        pictures = []
        with av.open(str(video)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    buffer = io.BytesIO()
                    frame.to_image().save(buffer, "PNG")
                    pictures.append(buffer.getvalue())
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ValueError(f"{video}: cannot be decoded ({error})") from None
    if not pictures:
        raise ValueError(f"{video}: has no frames")
    return pictures
