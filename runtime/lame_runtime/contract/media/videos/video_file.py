"""Frames of a video file, decoded with PyAV (`pip install 'lame-runtime[video]'`).

A file is read through a file object of its own: FFmpeg opens nothing by name, speaks no protocol,
and uses one demuxer and one decoder, each from a short list.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from lame_runtime.contract.media.videos.bounded_file import BoundedFile
from lame_runtime.contract.media.videos.video_boxes import MAX_FRAMES
from lame_runtime.contract.media.videos.video_broadcast import ends_within_frame
from lame_runtime.contract.media.videos.video_container import container_format, require_whole
from lame_runtime.contract.media.videos.video_frames import (
    DECODERS,
    Orientation,
    ShownFrame,
    decode,
    require_complete,
    require_written,
    shown_frame,
)
from lame_runtime.contract.media.videos.video_timeline import (
    LONGEST_PAUSE,
    LONGEST_PAUSE_OF_STREAM,
    MAX_RATE,
    MIN_RATE,
    FrameTimes,
    Timeline,
)
from lame_runtime.errors import InputError, first_line, shown
from lame_runtime.files.regular import open_regular

logger = logging.getLogger(__name__)

VideoFile = str | os.PathLike[str] | bytes
"""A path, or the bytes of a file."""

_COVER = 0x400
"""FFmpeg's flag for a stream that is an attached picture, such as an album cover."""
_DISCARD_ALL = 48
"""FFmpeg's discard level that skips a whole stream."""


@dataclass(frozen=True)
class OpenVideo:
    """An open video file that is whole, in a container that is read."""

    file: IO[bytes]
    container: str
    """FFmpeg's name of the container."""
    name: str
    """How messages name the file."""


def file_name(source: VideoFile) -> str:
    """Returns how messages name the file."""
    return "the given bytes" if isinstance(source, bytes) else shown(os.fspath(source))


@contextlib.contextmanager
def open_video(source: VideoFile) -> Iterator[OpenVideo]:
    """Opens a file for the functions of this module; nothing is decoded yet.

    Raises:
        InputError: the file is missing, not a regular file, in a container that is not read, or cut
            short; or PyAV is not installed.
    """
    name = file_name(source)
    try:
        import av  # noqa: F401  # an optional dependency; deferred: 0.1 s
    except ImportError:
        raise InputError(
            f"{name}: reading a video file needs PyAV: pip install 'lame-runtime[video]'"
        ) from None
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
            container = container_format(file, name)
            require_whole(file, container, name)
            yield OpenVideo(file, container, name)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder, not a video; check the path") from None
    except OSError as error:
        raise InputError(
            f"{name}: cannot be read ({error.strerror or first_line(error)}); give a video file"
        ) from None


def survey_packets(video: OpenVideo) -> Timeline:
    """Returns the number, rate and times of the packets, without decoding anything.

    In most files these are the frames. A warning names a broadcast that ends within a frame.

    Raises:
        InputError: the file holds no video, is damaged, or has too many frames.
    """
    with _opened(video) as (packets, stream):
        times, last = _frame_times(video, stream), None
        for packet in packets:
            # The last packet is empty and flushes the decoder. Packets to be discarded come before
            # the beginning that the file's edit list sets.
            if packet.size and not packet.is_discard and _is_shown(packet, stream):
                require_complete(packet, video.name)
                require_written(packet, video.name, is_last=False)
                last = packet
                _count(times, packet.pts, packet.dts, packet.duration, video)
        if last is not None:
            require_written(last, video.name, is_last=True)
        if ends_within_frame(video.file, video.container, stream.id):
            logger.warning("%s: the video ends within a frame; it may be truncated", video.name)
        return _checked(times.timeline(), video)


def survey_frames(video: OpenVideo, most_pixels: int) -> Timeline:
    """Returns the number, rate and times of the frames that can be decoded.

    Args:
        video: the open file.
        most_pixels: largest number of pixels of a frame that is decoded.

    Raises:
        InputError: see `decoded_frames`.
    """
    with _opened(video) as (packets, stream):
        times = _frame_times(video, stream)
        for frame in decode(packets, stream, video.name, most_pixels, is_strict=False):
            # frames come out in presentation order, so `pts` goes backward if the clock is reset
            _count(times, frame.pts, frame.pts, None, video)
        return _checked(times.timeline(), video)


def decoded_frames(
    video: OpenVideo, numbers: list[int], most_pixels: int, *, is_strict: bool = False
) -> Iterator[ShownFrame]:
    """Yields frames of the file as upright pictures, one at a time.

    Args:
        video: the open file.
        numbers: numbers of the frames, ascending; a number may occur more than once.
        most_pixels: largest number of pixels of a frame that is decoded.
        is_strict: raise an error where a decoder would conceal damage.

    Raises:
        InputError: the file cannot be decoded, or its frames are too large.
    """
    # Decoded from the start: seeking lands on key frames, so a frame's number would be unknown.
    with _opened(video) as (packets, stream):
        pixel_aspect = float(stream.sample_aspect_ratio or 0)
        position, orientation = 0, Orientation(video.name)
        frames = decode(packets, stream, video.name, most_pixels, is_strict=is_strict)
        number = -1
        # not `enumerate`, which keeps a frame until it has the next
        for frame in frames:
            number += 1
            orientation.note(frame)
            if position < len(numbers) and numbers[position] == number:
                picture = shown_frame(frame, pixel_aspect, orientation.matrix, video.name)
                del frame  # the decoder needs its memory again
                while position < len(numbers) and numbers[position] == number:
                    yield picture
                    position += 1
                del picture
            if position == len(numbers):
                return


@contextlib.contextmanager
def _opened(video: OpenVideo) -> Iterator[tuple[Iterator[Any], Any]]:
    """Opens a file, and yields the packets of its video stream and the stream.

    Errors inside the `with` are translated, too.
    """
    import av

    file = BoundedFile(video.file)
    options = {
        # guards against files that open other files, in addition to the explicit format
        "protocol_whitelist": "none",
        "format_whitelist": video.container,
        "enable_drefs": "0",
        "use_absolute_path": "0",
        # decoders that are tried while the file is opened
        "codec_whitelist": ",".join(DECODERS),
        # PyAV's default keeps packets in memory until one has a time stamp
        "fflags": "-genpts",
    }
    # not as `options`: those also go to streams, which in older versions of PyAV may crash
    arguments = {"mode": "r", "format": video.container, "container_options": options}
    try:
        # metadata plays no part, so it may be in any encoding
        with av.open(file, metadata_errors="replace", **arguments) as container:
            stream = _video_stream(container, video.name)
            yield _packets(container, stream, file), stream
        if file.is_exhausted:
            raise InputError(_endless(video.name))
    except InputError:
        raise
    except MemoryError:
        raise InputError(
            f"{video.name}: there is not enough memory to decode the video; scale it down first"
        ) from None
    # FFmpeg's errors are mixed with Python's own, and PyAV raises others for absurd values.
    except (
        av.error.FFmpegError, ArithmeticError, AssertionError, AttributeError, EOFError,
        LookupError, OSError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        if file.is_exhausted:
            raise InputError(_endless(video.name)) from None
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{video.name}: the video cannot be decoded ({shown(reason)}); "
            "it may be truncated or damaged"
        ) from None


def _packets(container: Any, stream: Any, file: BoundedFile) -> Iterator[Any]:
    for packet in container.demux(stream):
        file.note_packet()
        yield packet


def _endless(name: str) -> str:
    return (
        f"{name}: the video is damaged: reading it never ends, or meets nothing but zeros; "
        "copy it again"
    )


def _video_stream(container: Any, name: str) -> Any:
    """Returns the stream that a player shows; album covers do not count."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise InputError(f"{name}: holds no video stream; give a video file")
    best = container.streams.best("video")
    stream = best if any(stream is best for stream in streams) else streams[0]
    context = stream.codec_context
    if context is None or context.name not in DECODERS:
        codec = shown(context.name if context else "an unknown codec", 20)
        raise InputError(
            f"{name}: the video's codec ({codec}) is not supported; "
            "convert it to H.264: ffmpeg -i IN -pix_fmt yuv420p OUT.mp4"
        )
    # transparency that FFmpeg's decoders of VP8 and VP9 leave out
    if stream.metadata.get("alpha_mode") == "1":
        raise InputError(
            f"{name}: the video's transparency is stored beside its frames and cannot be read; "
            "flatten it onto a background first"
        )
    for other in container.streams:
        if other is not stream and hasattr(other, "discard"):
            other.discard = _DISCARD_ALL
    return stream


def _is_cover(stream: Any) -> bool:
    # older versions of PyAV do not tell
    return bool(int(getattr(stream, "disposition", 0)) & _COVER)


def _is_shown(packet: Any, stream: Any) -> bool:
    """Returns whether a packet gives a frame: VP8 stores frames that others only refer to."""
    return stream.codec_context.name != "vp8" or bool(memoryview(packet)[0] >> 4 & 1)


def _frame_times(video: OpenVideo, stream: Any) -> FrameTimes:
    rate = stream.average_rate or stream.guessed_rate
    longest = LONGEST_PAUSE_OF_STREAM if video.container.startswith("mpeg") else LONGEST_PAUSE
    return FrameTimes(float(stream.time_base or 0), float(rate) if rate else None, longest)


def _count(
    times: FrameTimes, pts: int | None, dts: int | None, duration: int | None, video: OpenVideo
) -> None:
    times.add(pts, dts, duration)
    if times.count > MAX_FRAMES:
        raise InputError(
            f"{video.name}: the video has more than {MAX_FRAMES:,} frames; cut it into pieces"
        )


def _checked(timeline: Timeline, video: OpenVideo) -> Timeline:
    if not MIN_RATE <= timeline.rate <= MAX_RATE:
        raise InputError(
            f"{video.name}: the video has {timeline.rate:g} frames per second; "
            f"use {MIN_RATE:g} to {MAX_RATE:g}"
        )
    return timeline
