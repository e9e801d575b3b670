"""Small videos in the containers that people have."""

from __future__ import annotations

import contextlib
import io
from functools import cache

import av
import numpy as np

from fuzz.media.pictures import Sample, pattern

FRAMES = 6
FORMATS = (
    ("mp4", ".mp4", "mpeg4", "yuv420p"),
    ("mp4", ".mp4", "libx264", "yuv420p"),
    ("mov", ".mov", "mpeg4", "yuv420p"),
    ("matroska", ".mkv", "mpeg4", "yuv420p"),
    ("matroska", ".mkv", "ffv1", "yuv420p"),
    ("webm", ".webm", "libvpx-vp9", "yuv420p"),
    ("webm", ".webm", "libvpx", "yuv420p"),
    ("avi", ".avi", "mjpeg", "yuvj420p"),
    ("avi", ".avi", "mpeg4", "yuv420p"),
    ("mpegts", ".ts", "mpeg2video", "yuv420p"),
    ("mpeg", ".mpg", "mpeg1video", "yuv420p"),
    ("gif", ".gif", "gif", "rgb8"),
    ("flv", ".flv", "flv1", "yuv420p"),
    ("ogg", ".ogv", "libtheora", "yuv420p"),
)
"""Container, suffix, codec and pixel format; this FFmpeg may lack some."""


@cache
def videos() -> tuple[Sample, ...]:
    """Returns the samples that this FFmpeg can write."""
    samples = []
    for container, suffix, codec, pixels in FORMATS:
        with contextlib.suppress(av.FFmpegError, ValueError):
            data = write_video(container, codec, pixels)
            samples.append(Sample(f"{container} {codec}", suffix, data))
    return tuple(samples)


def write_video(
    container: str, codec: str, pixels: str, frames: int = FRAMES, size: tuple[int, int] = (32, 24)
) -> bytes:
    """Returns the bytes of a video, equal in every process."""
    buffer = io.BytesIO()
    # without times of day and random identifiers
    options = {"fflags": "+bitexact"}
    if container == "mov":
        # the index before the frames, as in a file that is streamed
        options["movflags"] = "frag_keyframe+empty_moov"
    picture = np.asarray(pattern(*size))
    with av.open(buffer, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=25 if container in ("mpeg", "mpegts") else 5)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= 1 << 23  # bitexact
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * index, 1), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()
