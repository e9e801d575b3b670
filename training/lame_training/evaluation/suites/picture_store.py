"""Stores pictures from parquet files and videos on disk, under the hash of their content.

A corpus of page images takes tens of gigabytes, too much to hold in memory while it is embedded. A
path is cheap, and a picture that occurs twice, in one data set or in two, is stored once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.contract import ImageRules
from lame_runtime.contract.media.videos.video_file import (
    decoded_frames,
    open_video,
    survey_frames,
)
from lame_runtime.errors import InputError
from lame_runtime.files.atomic import atomic_path

from lame_training.evaluation.suites.folders import make_folder

SAVED_FRAMES = 64
"""Frames that the benchmark extracts from a video file at most."""
SAMPLED_FRAMES = 8
"""Frames of a video that a model sees at most."""
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
"""File types of saved frames."""


class PictureStore:
    """Writes pictures to a folder, each under the sha256 of its bytes.

    Args:
        folder: created when the first picture is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Writes the bytes of a picture file, whole or not at all, and returns its path.

        Raises:
            StorageError: the disk refuses.
        """
        name = hashlib.sha256(content).hexdigest()
        # 256 subfolders, because listing one folder of a million files is slow.
        picture = self.folder / name[:2] / name
        # Its name is the hash of its content, so a file that exists is complete and the same.
        if not picture.is_file():
            make_folder(picture.parent, "cache")
            with atomic_path(picture) as temporary:
                temporary.write_bytes(content)
        return str(picture)

    def put_cell(self, cell: Any) -> str:
        """Writes the picture in a parquet cell, and returns its path.

        Args:
            cell: bytes, or `{"bytes": …, "path": …}` as the `datasets` library writes pictures.

        Raises:
            ValueError: the cell holds no bytes.
            StorageError: the disk refuses.
        """
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes) or not content:
            raise ValueError("its picture is missing")
        return self.put(content)

    def sample_frames(self, folder: Path, video: Path | None = None) -> tuple[str, ...]:
        """Returns the paths of the frames that a model sees of a video, in order of time.

        These are 8 frames spread evenly over those saved in `folder`, or all if there are fewer. If
        `folder` has none, up to 64 are first taken evenly from the file `video`, as the benchmark's
        code does.

        Args:
            folder: folder of saved frames.
            video: the video file; None if there is none to fall back on.

        Raises:
            ValueError: there are neither frames nor a video, or the video cannot be decoded.
            InputError: PyAV is not installed.
            StorageError: the disk refuses.
        """
        # As in VLM2Vec's `load_frames`: other files are ignored, and suffixes come in either case.
        files = folder.iterdir() if folder.is_dir() else ()
        frames = [path for path in files if path.suffix.lower() in FRAME_SUFFIXES]
        paths = [str(path) for path in sorted(frames, key=_number_aware_key)]
        if not paths:
            if video is None or not video.is_file():
                alternative = f" nor the file {video}" if video else ""
                raise ValueError(f"it has neither frames in {folder}{alternative}")
            paths = [self.put(content) for content in _decode(video)]
        if len(paths) <= SAMPLED_FRAMES:
            return tuple(paths)
        # The first and the last frame are included and fractions are cut off, as in VLM2Vec.
        indices = np.linspace(0, len(paths) - 1, SAMPLED_FRAMES, dtype=int)
        return tuple(paths[index] for index in indices)


def _number_aware_key(path: Path) -> list[tuple[int, str]]:
    """Returns a sort key that compares numbers by value, so that frame 10 comes after frame 9."""
    parts: list[tuple[int, str]] = []
    number = ""
    # The closing "\0" is no digit, so it flushes a number at the end of the name.
    for character in path.name.lower() + "\0":
        if character.isdigit():
            number += character
            continue
        if number:
            parts.append((int(number), ""))
            number = ""
        parts.append((-1, character))
    return parts


def _decode(video: Path) -> list[bytes]:
    """Returns up to 64 evenly spread frames of a video as PNG files."""
    if importlib.util.find_spec("av") is None:
        # Not a ValueError, which would skip this row and fail the same way in every other.
        raise InputError(f"{video}: reading videos needs PyAV; pip install 'lame-runtime[video]'")
    most_pixels = ImageRules.max_source_pixels
    pictures = []
    try:
        with open_video(video) as source:
            # Decoded twice: containers often state no frame count, or a wrong one, and holding all
            # frames of a long video takes gigabytes.
            total = survey_frames(source, most_pixels).total
            # The same indices as VLM2Vec's `save_frames`, so that figures match those of saved
            # frames.
            step = max(1.0, total / SAVED_FRAMES)
            saved = sorted({int(index * step) for index in range(min(total, SAVED_FRAMES))})
            for frame in decoded_frames(source, saved, most_pixels):
                # PNG, because JPEG would lose detail a second time.
                buffer = io.BytesIO()
                frame.picture.save(buffer, "PNG")
                pictures.append(buffer.getvalue())
    except InputError as error:
        raise ValueError(str(error)) from None
    if not pictures:
        raise ValueError(f"{video}: has no frames")
    return pictures
