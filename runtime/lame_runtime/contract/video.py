"""Video → sampled frames → resized frames, by the family's own rules.

Sampling, sizes and times follow transformers' `Qwen2VLVideoProcessor` and `Qwen3VLVideoProcessor`; frames are
resized with Pillow instead of torchvision, which differs by at most two grey levels (tests hold all of it). Files are read with PyAV
(`pip install 'lame-runtime[video]'`); a list of frames needs nothing.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_runtime.contract.images import MAX_ASPECT_RATIO, ImageSource, fit, open_image
from lame_runtime.contract.rules import ImageRules, VideoRules
from lame_runtime.errors import InputError

VideoSource = str | os.PathLike[str] | bytes | Sequence[ImageSource | npt.NDArray[np.uint8]]
"""A path, the bytes of a file, or frames: pictures or uint8 arrays (height, width, 3), in order."""


@dataclass(frozen=True)
class Clip:
    """Sampled frames at the size the patches are cut from, and when they were seen."""

    frames: npt.NDArray[np.uint8]
    """uint8 (n, height, width, 3); n is a multiple of the temporal patch size."""
    seconds: tuple[float, ...]
    """Per temporal patch, the mean of its first and last frame's time."""
    seconds_per_patch: float
    """Time from one temporal patch to the next."""


def read_video(source: VideoSource, fps: float | None, videos: VideoRules, images: ImageRules) -> Clip:
    """Reads and samples one video.

    Args:
        source: see `VideoSource`. Frames of a list are all used; those of a file are sampled.
        fps: frames per second of a list; None takes the rate the family samples at.
        videos: the contract's video rules.
        images: for the patch geometry and `max_source_pixels`.

    Raises:
        InputError: missing, unreadable, without frames, frames of different sizes, PyAV not installed.
    """
    if isinstance(source, str | os.PathLike | bytes):
        if fps is not None:
            raise InputError(f"{_name(source)}: fps belongs to a list of frames; a file has its own")
        return _read_file(source, videos, images)
    if not source:
        raise InputError("the video has no frames; give at least one")
    if len(source) > videos.max_frames:
        raise InputError(f"the video has {len(source)} frames, the limit is {videos.max_frames}; leave some out")
    rate = videos.fps if fps is None else fps
    if not 1e-3 <= rate <= 1e4:
        raise InputError(f"the video's fps is {rate}; use 0.001 to 10,000")
    indices = list(range(len(source)))
    frames = _resized((_still(each, images) for each in source), len(source), videos, images)
    return _clip(frames, indices, rate, len(source), images)


def _read_file(source: str | os.PathLike[str] | bytes, videos: VideoRules, images: ImageRules) -> Clip:
    name = _name(source)
    for count in (_count_packets, _count_frames):
        rate, total = count(source, name)
        indices = sample_indices(total, rate, videos, images.temporal_patch_size) if total else []
        if not indices:
            continue
        frames = _resized(_chosen(source, name, indices, images), len(indices), videos, images)
        if len(frames) == len(indices):
            return _clip(frames, indices, rate, total, images)
        # a container may hold packets that give no frame: count what can be decoded and sample anew
    raise InputError(f"{name}: the video has no frames; give another file")


def _resized(frames: Iterator[Image.Image], amount: int, videos: VideoRules, images: ImageRules) -> list[npt.NDArray[np.uint8]]:
    """Frames at the size that suits a clip of `amount` of them, one full frame in memory at a time."""
    resized: list[npt.NDArray[np.uint8]] = []
    size = target = (0, 0)
    for number, frame in enumerate(frames):
        if number == 0:
            size, target = frame.size, clip_size(amount, frame.height, frame.width, videos, images)
        if frame.size != size:
            raise InputError(f"frame {number} of the video is {frame.width}×{frame.height}, the first {size[0]}×{size[1]}; use one size")
        # across, then down, as torchvision does; in one call Pillow chooses the order, and a clipped overshoot shows it
        across = Image.fromarray(fit(frame, frame.height, target[1]))
        resized.append(fit(across, *target))
    return resized


def _clip(frames: list[npt.NDArray[np.uint8]], indices: list[int], rate: float, total: int, images: ImageRules) -> Clip:
    """Repeats the last frame until the last temporal patch is full, and times every temporal patch."""
    temporal = images.temporal_patch_size
    missing = -len(frames) % temporal
    times = [index / rate for index in [*indices, *[indices[-1]] * missing]]
    seconds = tuple((times[start] + times[start + temporal - 1]) / 2 for start in range(0, len(times), temporal))
    sampled_rate = len(indices) / total * rate
    return Clip(np.stack([*frames, *[frames[-1]] * missing]), seconds, temporal / sampled_rate)


def sample_indices(total: int, fps: float, videos: VideoRules, temporal: int) -> list[int]:
    """Which of a file's `total` frames at `fps` are used; at least one."""
    if videos.sampling == "linspace":
        amount = min(max(int(total / fps * videos.fps), videos.min_frames), videos.max_frames, total)
        return [int(index) for index in np.linspace(0, total - 1, amount).round()]
    most = math.floor(min(videos.max_frames, total) / temporal) * temporal
    amount = math.floor(min(max(total / fps * videos.fps, videos.min_frames), most, total) / temporal) * temporal
    if amount == 0:
        return list(range(min(total, temporal)))
    step = total / amount
    # rounding may make one step too many, which would lie behind the last frame
    return [index for index in (int(np.float32(number * step)) for number in range(math.ceil(total / step))) if index < total]


def clip_size(frames: int, height: int, width: int, videos: VideoRules, images: ImageRules) -> tuple[int, int]:
    """The size (height, width) all frames are resized to: multiples of patch × merge, within the pixel budget."""
    factor, temporal = images.patch_size * images.merge_size, images.temporal_patch_size
    frames = max(frames, temporal)
    highest = videos.max_pixels
    if videos.cap_pixels_per_frame and videos.pixels_of == "frame":
        budget = int(videos.max_video_tokens * factor * factor * 0.9)
        highest = max(min(highest, budget * temporal // frames), int(videos.min_pixels * 1.05))
    elif videos.cap_pixels_per_frame:
        share = max(min(videos.max_video_tokens * factor * factor, highest // frames), int(videos.min_pixels * 1.05))
        highest = share * frames
    counted, area = 1, 1
    if videos.pixels_of == "clip":
        if height < factor or width < factor:
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
        counted, area = round(frames / temporal) * temporal, frames
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise InputError(f"the video's frames are more than {MAX_ASPECT_RATIO} times longer than wide; crop them")
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if counted * new_height * new_width > highest:
        shrink = math.sqrt(area * height * width / highest)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif counted * new_height * new_width < videos.min_pixels:
        grow = math.sqrt(videos.min_pixels / (area * height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def _still(frame: ImageSource | npt.NDArray[np.uint8], images: ImageRules) -> Image.Image:
    if isinstance(frame, np.ndarray):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(f"a frame of the video is {frame.dtype} {frame.shape}; arrays must be uint8 (height, width, 3)")
        frame = Image.fromarray(frame)
    return open_image(frame, images)


def _name(source: str | os.PathLike[str] | bytes) -> str:
    return "the given bytes" if isinstance(source, bytes) else os.fspath(source)


def _chosen(source: str | os.PathLike[str] | bytes, name: str, indices: list[int], images: ImageRules) -> Iterator[Image.Image]:
    """The frames of a file with these (ascending) indices, upright."""
    with _open(source, name) as container:
        position = 0
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            while position < len(indices) and indices[position] == index:
                turns = round((getattr(frame, "rotation", 0) or 0) / 90)
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield open_image(Image.fromarray(np.ascontiguousarray(pixels)), images)
                position += 1
            if position == len(indices):
                return


def _count_packets(source: str | os.PathLike[str] | bytes, name: str) -> tuple[float, int]:
    """Frames per second and the number of packets, which is that of frames in all but odd files; decodes nothing."""
    with _open(source, name) as container:
        stream = container.streams.video[0]
        return _rate(stream), sum(packet.size > 0 for packet in container.demux(stream))


def _count_frames(source: str | os.PathLike[str] | bytes, name: str) -> tuple[float, int]:
    """The same by decoding."""
    with _open(source, name) as container:
        stream = container.streams.video[0]
        return _rate(stream), sum(1 for _ in container.decode(stream))


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 24)


@contextlib.contextmanager
def _open(source: str | os.PathLike[str] | bytes, name: str) -> Iterator[Any]:
    """A PyAV container with a video stream; what goes wrong inside the `with` is translated too."""
    try:
        import av  # 0.1 s that a text need not pay
    except ImportError:
        raise InputError(f"{name}: reading a video file needs PyAV: pip install 'lame-runtime[video]'") from None
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise InputError(f"{name}: {'is a folder, not a video' if Path(source).is_dir() else 'no such file'}; check the path")
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as container:
            if not container.streams.video:
                raise InputError(f"{name}: holds no video stream; give a video file")
            container.streams.video[0].thread_type = "AUTO"
            yield container
    except av.error.FFmpegError as error:
        raise InputError(f"{name}: the video cannot be decoded ({error.strerror}); it may be truncated or damaged") from None
