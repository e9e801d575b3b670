"""Computes the largest picture or video frame that a contract accepts, for the last profile.

The largest grid exceeds the contract's pixel budget: a picture below the smallest area is scaled up
with both sides rounded up, and a long strip that is scaled down stays one token wide. The bounds
follow the resize rules of `lame_runtime.contract.media` for all shapes at once; a test compares
them with those rules shape by shape.
"""

from __future__ import annotations

import math

from lame_runtime.contract import Contract, VideoRules
from lame_runtime.contract.media.images import MAX_ASPECT_RATIO

# A side that is a whole number of tokens may come out of floating point a little below it.
_ROUNDING_MARGIN = 1 + 1e-9


def largest_patches(contract: Contract) -> int:
    """Returns the patches (before merging) of the largest picture or frame a contract accepts.

    The longest prompt is a bound as well: a visual whose tokens do not fit into it is never run.
    """
    images, videos = contract.images, contract.videos
    patches_per_token = images.merge_size**2
    pixels_per_token = images.patch_size**2 * patches_per_token
    room = min(contract.tokens.max_length, contract.limits.patches // patches_per_token)
    picture = _largest_grid(
        images.min_pixels / pixels_per_token,
        images.max_pixels / pixels_per_token,
        images.max_pixels / pixels_per_token,
    )
    tokens = min(room, picture)
    temporal = images.temporal_patch_size
    # The pixel budget of a frame depends on how many frames share it, so each count is tried.
    for frames in range(temporal, max(temporal, videos.max_frames) + 1):
        areas = _frame_areas(frames, videos, pixels_per_token, temporal)
        frame = _largest_grid(*(pixels / pixels_per_token for pixels in areas))
        # All temporal patches of a clip stand in one prompt, so each gets a share of the room.
        tokens = max(tokens, min(room // math.ceil(frames / temporal), frame))
    return max(1, tokens) * patches_per_token


def _frame_areas(
    frames: int, videos: VideoRules, pixels_per_token: int, temporal: int
) -> tuple[float, float, float]:
    """Returns three areas of a frame of a clip, in pixels.

    Smaller frames are scaled up to the first, larger ones down to the second, and a frame of up to
    the third may be left as it is. The arithmetic mirrors `clip_size` of the contract.
    """
    # The factors 1.05 and 0.9 are those of Qwen's own video processor.
    floor = int(videos.min_pixels * 1.05)
    maximum = videos.max_pixels
    if videos.pixels_of == "frame":
        if videos.cap_pixels_per_frame:
            clip_budget = int(videos.max_video_tokens * pixels_per_token * 0.9)
            maximum = max(min(maximum, clip_budget * temporal // frames), floor)
        return videos.min_pixels, maximum, maximum
    if videos.cap_pixels_per_frame:
        frame_budget = videos.max_video_tokens * pixels_per_token
        maximum = max(min(frame_budget, maximum // frames), floor) * frames
    # Whether a clip is resized is decided on its frames rounded to whole temporal patches, but the
    # new size is computed with the exact count: an unresized frame can exceed the second area.
    rounded_frames = round(frames / temporal) * temporal
    return videos.min_pixels / frames, maximum / frames, maximum / rounded_frames


def _largest_grid(minimum: float, maximum: float, unresized: float) -> int:
    """Returns the tokens of the largest grid that resizing can give.

    Args:
        minimum: area, in tokens, that smaller pictures are scaled up to.
        maximum: area that larger pictures are scaled down to.
        unresized: area up to which a picture may keep its size.
    """
    tokens = math.floor(max(maximum, unresized) * _ROUNDING_MARGIN)
    if maximum < MAX_ASPECT_RATIO:
        # Scaling down rounds sides down but never below one token: a strip thinner than a token
        # keeps that width at its full length, and so exceeds the area.
        tokens = max(tokens, math.floor(math.sqrt(MAX_ASPECT_RATIO * maximum) * _ROUNDING_MARGIN))
    # Scaling up rounds both sides up. For every possible short side after rounding, the long side
    # is bounded by the aspect ratio and by the shortest side before rounding (`short - 1`).
    longest = math.sqrt(MAX_ASPECT_RATIO * minimum)
    for short in range(1, math.ceil(math.sqrt(minimum) * _ROUNDING_MARGIN) + 1):
        long = longest if short == 1 else min(longest, minimum / (short - 1))
        tokens = max(tokens, short * math.ceil(long * _ROUNDING_MARGIN))
    return tokens
