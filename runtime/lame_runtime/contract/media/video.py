"""Video → sampled frames → resized frames, by the family's own rules.

Sampling, sizes and times follow transformers' `Qwen2VLVideoProcessor` and `Qwen3VLVideoProcessor`.
Frames are resized with Pillow instead of torchvision, which differs by at most two gray levels;
tests hold all of it. Files are read with PyAV (`pip install 'lame-runtime[video]'`); a list of
frames needs nothing.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_runtime.contract.media.frame_lists import listed_frames
from lame_runtime.contract.media.images import MAX_ASPECT_RATIO, ImageSource, fit
from lame_runtime.contract.media.videos.video_file import (
    OpenVideo,
    VideoFile,
    decoded_frames,
    file_name,
    open_video,
    survey_frames,
    survey_packets,
)
from lame_runtime.contract.media.videos.video_frames import ShownFrame
from lame_runtime.contract.media.videos.video_timeline import Timeline
from lame_runtime.contract.rules import ImageRules, VideoRules
from lame_runtime.errors import InputError, shown

logger = logging.getLogger(__name__)

VideoSource = VideoFile | Sequence[ImageSource | npt.NDArray[np.uint8]]
"""A path, the bytes of a file, or frames: pictures or uint8 arrays (height, width, 3), in order."""

MIN_PIXELS_MARGIN = 1.05
"""The families' processors keep the area of a frame this much above `min_pixels`."""


@dataclass(frozen=True)
class Clip:
    """Sampled frames at the size that patches are cut from, and their times."""

    frames: npt.NDArray[np.uint8]
    """uint8 (n, height, width, 3); n is a multiple of the temporal patch size."""
    seconds: tuple[float, ...]
    """For each temporal patch, the mean of its first and last frame's time."""
    seconds_per_patch: float
    """Time from one temporal patch to the next."""


def read_video(
    source: VideoSource,
    fps: float | None,
    videos: VideoRules,
    images: ImageRules,
    require_patches: Callable[[int], object] | None = None,
) -> Clip:
    """Reads and samples one video.

    A file that is damaged inside is read as players do, and a warning names it.

    Args:
        source: see `VideoSource`. All frames of a list are used; those of a file are sampled.
        fps: frames per second of a list; None takes the rate that the family samples at.
        videos: the contract's video rules.
        images: for the patch geometry and `max_source_pixels`.
        require_patches: called with the number of patches before frames are kept; may raise.

    Raises:
        InputError: the video is missing, unreadable, truncated or without frames, its frames are
            too large or of different sizes, it takes too many patches, or PyAV is not installed.
    """
    if isinstance(source, str | os.PathLike | bytes):
        if fps is not None:
            raise InputError(
                f"{file_name(source)}: `fps` belongs to a list of frames; a file has its own"
            )
        with open_video(source) as video:
            return _read_file(video, videos, images, require_patches)
    # A list is used whole, so it has to fit; a file is sampled down to `max_frames`.
    if not len(source):
        raise InputError("the video has no frames; give at least one")
    if len(source) > videos.max_frames:
        raise InputError(
            f"the video has {len(source):,} frames, the limit is {videos.max_frames:,}; "
            "leave some out"
        )
    rate = videos.fps if fps is None else fps
    if not 1e-3 <= rate <= 1e4:
        raise InputError(f"the video's `fps` is {shown(rate)}; use 0.001 to 10,000")
    indices = list(range(len(source)))
    kept = _resized(listed_frames(source, images), len(source), videos, images, require_patches)
    if kept is None:
        raise InputError("the video has no frames; give at least one")
    return _clip(kept, indices, rate, len(source), images)


def _read_file(
    video: OpenVideo,
    videos: VideoRules,
    images: ImageRules,
    require_patches: Callable[[int], object] | None,
) -> Clip:
    def sampled(timeline: Timeline, *, is_strict: bool) -> Clip | None:
        """Returns the clip, or None if the file has fewer frames than its timeline."""
        total, rate = timeline.total, timeline.rate
        indices = sample_indices(total, rate, videos, images.temporal_patch_size) if total else []
        if not indices:
            return None
        frames = decoded_frames(
            video, timeline.shown(indices), images.max_source_pixels, is_strict=is_strict
        )
        kept = _resized(frames, len(indices), videos, images, require_patches)
        return _clip(kept, indices, rate, total, images) if kept is not None else None

    # A container may hold packets that give no frame. So packets are counted first, which decodes
    # nothing; if fewer frames come out than were counted on, frames are counted, which decodes all.
    timeline = survey_packets(video)
    try:
        clip = sampled(timeline, is_strict=True)
    except InputError:
        # Players conceal damage; where they give up, so does the second attempt.
        clip = sampled(timeline, is_strict=False)
        logger.warning("%s: the video is damaged, its frames may be distorted", video.name)
    clip = clip or sampled(survey_frames(video, images.max_source_pixels), is_strict=False)
    if clip is None:
        raise InputError(f"{video.name}: the video has no frames; give another file")
    return clip


def _resized(
    frames: Iterator[ShownFrame],
    count: int,
    videos: VideoRules,
    images: ImageRules,
    require_patches: Callable[[int], object] | None,
) -> npt.NDArray[np.uint8] | None:
    """Resizes the frames of a clip of `count`, with one full frame in memory at a time.

    Returns:
        uint8 (n, height, width, 3), in which the last temporal patch is filled by repeating the
        last frame; None if there are fewer than `count` frames.
    """
    temporal = images.temporal_patch_size
    number, size, kept = 0, (0, 0), np.empty((0, 0, 0, 3), dtype=np.uint8)
    # not `enumerate`, which keeps a frame until it has the next
    for frame in frames:
        number += 1
        if number == 1:
            size = frame.picture.size
            height, width = clip_size(count, frame.height, frame.width, videos, images)
            times = -(-count // temporal)
            if require_patches:
                patch = images.patch_size
                require_patches(times * (height // patch) * (width // patch))
            kept = np.empty((times * temporal, height, width, 3), dtype=np.uint8)
        if frame.picture.size != size:
            raise InputError(
                f"frame {number - 1} of the video is {frame.picture.width}×{frame.picture.height}, "
                f"the first {size[0]}×{size[1]}; use one size"
            )
        # Across first, then down, as torchvision does. In one call Pillow chooses the order, and
        # the two differ where the bicubic filter overshoots and is clipped in between.
        height, width = kept.shape[1:3]
        across = Image.fromarray(fit(frame.picture, frame.picture.height, width))
        kept[number - 1] = fit(across, height, width)
        del frame, across
    if number < count:
        return None
    kept[count:] = kept[count - 1]
    return kept


def _clip(
    frames: npt.NDArray[np.uint8],
    indices: list[int],
    rate: float,
    total: int,
    images: ImageRules,
) -> Clip:
    """Times each temporal patch."""
    temporal = images.temporal_patch_size
    # A repeated frame has the time of the one it repeats, as in the processor.
    missing = -len(indices) % temporal
    times = [index / rate for index in [*indices, *[indices[-1]] * missing]]
    seconds = tuple(
        (times[start] + times[start + temporal - 1]) / 2 for start in range(0, len(times), temporal)
    )
    # The mean rate of the samples, not the requested one: a short file gives fewer.
    sampled_rate = len(indices) / total * rate
    return Clip(frames, seconds, temporal / sampled_rate)


def sample_indices(total: int, fps: float, videos: VideoRules, temporal: int) -> list[int]:
    """Returns the indices of the frames that are sampled, in order; at least one.

    Args:
        total: number of frames of the file.
        fps: their rate.
        videos: the contract's video rules.
        temporal: frames in a temporal patch.
    """
    if videos.sampling == "linspace":
        count = min(max(int(total / fps * videos.fps), videos.min_frames), videos.max_frames, total)
        return [int(index) for index in np.linspace(0, total - 1, count).round()]
    # Whole temporal patches only: floors to multiples of `temporal`, as Qwen2-VL's processor does.
    most = math.floor(min(videos.max_frames, total) / temporal) * temporal
    sampled = min(max(total / fps * videos.fps, videos.min_frames), most, total)
    count = math.floor(sampled / temporal) * temporal
    if count == 0:  # a file with fewer frames than one temporal patch
        return list(range(min(total, temporal)))
    step = total / count
    # Single precision, as PyTorch's arange. Rounding may make one step too many, which would be
    # after the last frame.
    indices = [int(np.float32(number * step)) for number in range(math.ceil(total / step))]
    return [index for index in indices if index < total]


def clip_size(
    frames: int, height: int, width: int, videos: VideoRules, images: ImageRules
) -> tuple[int, int]:
    """Returns the size (height, width) that all frames are resized to.

    Both sides are multiples of patch × merge, and the area is within the pixel budget.

    Args:
        frames: number of sampled frames.
        height: height of a frame in the file.
        width: width of a frame in the file.
        videos: the contract's video rules.
        images: for the patch geometry.

    Raises:
        InputError: the frames are too long strips.
    """
    factor, temporal = images.patch_size * images.merge_size, images.temporal_patch_size
    frames = max(frames, temporal)  # a single frame is repeated to fill a temporal patch
    highest = _highest_area(frames, videos, factor, temporal)
    # Qwen3-VL counts rounded frames in the comparisons, and frames as they are in the scale; both
    # are 1 if the limits are those of a frame.
    counted, area = 1, 1
    if videos.pixels_of == "clip":
        if height < factor or width < factor:
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
        counted, area = round(frames / temporal) * temporal, frames
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise InputError(
            f"one side of the video's frames is over {MAX_ASPECT_RATIO} times the other; crop them"
        )
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


def _highest_area(frames: int, videos: VideoRules, factor: int, temporal: int) -> int:
    """Returns the largest area of what the family's limits count: one frame, or the whole clip."""
    if not videos.cap_pixels_per_frame:
        return videos.max_pixels
    token_area = videos.max_video_tokens * factor * factor
    lowest = int(videos.min_pixels * MIN_PIXELS_MARGIN)
    if videos.pixels_of == "frame":
        # An even share, for each temporal patch, of 0.9 × the tokens of a whole video.
        budget = int(token_area * 0.9)
        return max(min(videos.max_pixels, budget * temporal // frames), lowest)
    return max(min(token_area, videos.max_pixels // frames), lowest) * frames
