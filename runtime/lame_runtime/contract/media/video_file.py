"""Frames of a video file, decoded with PyAV (`pip install 'lame-runtime[video]'`)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError

VideoFile = str | os.PathLike[str] | bytes
"""A path, or the bytes of a file."""


def file_name(source: VideoFile) -> str:
    """Returns how messages name the file."""
    return "the given bytes" if isinstance(source, bytes) else os.fspath(source)


def decoded_frames(
    source: VideoFile, name: str, indices: list[int], images: ImageRules
) -> Iterator[Image.Image]:
    """Yields frames of the file as upright RGB pictures, one at a time.

    Args:
        source: the file.
        name: the file's name, for messages.
        indices: indices of the frames, ascending; an index may occur more than once.
        images: for `max_source_pixels`.

    Raises:
        InputError: the file is missing, is no video or cannot be decoded, or PyAV is not installed.
    """
    # Decoded from the start: seeking lands on key frames, so a frame's index would be unknown.
    with _open(source, name) as container:
        position = 0
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            while position < len(indices) and indices[position] == index:
                # Phones record sideways and note a rotation (counterclockwise, in degrees). Newer
                # versions of PyAV report it; none applies it.
                turns = round((getattr(frame, "rotation", 0) or 0) / 90)
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield open_image(Image.fromarray(np.ascontiguousarray(pixels)), images)
                position += 1
            if position == len(indices):
                return


def count_packets(source: VideoFile, name: str) -> tuple[float, int]:
    """Returns frames per second, and the number of packets, which decodes nothing.

    In most files that is the number of frames.

    Raises:
        InputError: see `decoded_frames`.
    """
    with _open(source, name) as container:
        stream = container.streams.video[0]
        # The last packet that `demux` yields is empty: it flushes the decoder.
        return _rate(stream), sum(packet.size > 0 for packet in container.demux(stream))


def count_decoded(source: VideoFile, name: str) -> tuple[float, int]:
    """Returns frames per second, and the number of frames that can be decoded.

    Raises:
        InputError: see `decoded_frames`.
    """
    with _open(source, name) as container:
        stream = container.streams.video[0]
        return _rate(stream), sum(1 for _ in container.decode(stream))


def _rate(stream: Any) -> float:
    # Files without time stamps have neither; 24 is the rate that the families' processors assume.
    return float(stream.average_rate or stream.guessed_rate or 24)


@contextlib.contextmanager
def _open(source: VideoFile, name: str) -> Iterator[Any]:
    """Opens a PyAV container with a video stream; translates errors inside the `with`, too."""
    try:
        import av  # an optional dependency; deferred: 0.1 s
    except ImportError:
        raise InputError(
            f"{name}: reading a video file needs PyAV: pip install 'lame-runtime[video]'"
        ) from None
    if not isinstance(source, bytes) and not Path(source).is_file():
        reason = "is a folder, not a video" if Path(source).is_dir() else "no such file"
        raise InputError(f"{name}: {reason}; check the path")
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
        with av.open(opened) as container:
            if not container.streams.video:
                raise InputError(f"{name}: holds no video stream; give a video file")
            container.streams.video[0].thread_type = "AUTO"  # decode with several threads
            yield container
    except av.error.FFmpegError as error:
        raise InputError(
            f"{name}: the video cannot be decoded ({error.strerror}); "
            "it may be truncated or damaged"
        ) from None
