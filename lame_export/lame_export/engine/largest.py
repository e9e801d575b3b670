"""The largest picture, or frame of a video, that a contract lets through: what the last profile must take.

That is more than its budget of pixels. A picture below the least area is scaled up with both sides rounded up, and a
strip that is scaled down stays one token wide. The same arithmetic as `contract.images` and `contract.video`, for every
shape at once; a test holds it against theirs.
"""

from __future__ import annotations

import math

from lame_runtime.contract import Contract, VideoRules
from lame_runtime.contract.images import MAX_ASPECT_RATIO

_SLACK = 1 + 1e-9
"""For sides that rounding errors push over the next whole token."""


def largest_patches(contract: Contract) -> int:
    """Patches of the largest picture or frame, before merging; all that fit into the longest prompt at most."""
    images, videos = contract.images, contract.videos
    area = images.merge_size**2
    token = images.patch_size**2 * area
    room = min(contract.tokens.max_length, contract.limits.patches // area)
    most = min(room, _most_tokens(images.min_pixels / token, images.max_pixels / token, images.max_pixels / token))
    temporal = images.temporal_patch_size
    for frames in range(temporal, max(temporal, videos.max_frames) + 1):
        least, high, kept = (pixels / token for pixels in _frame_pixels(frames, videos, token, temporal))
        most = max(most, min(room // math.ceil(frames / temporal), _most_tokens(least, high, kept)))
    return max(1, most) * area


def _frame_pixels(frames: int, videos: VideoRules, token: int, temporal: int) -> tuple[float, float, float]:
    """Of one frame of a clip: the area small ones are scaled up to, large ones down to, and the most that is left alone."""
    lowest = int(videos.min_pixels * 1.05)
    high = videos.max_pixels
    if videos.pixels_of == "frame":
        if videos.cap_pixels_per_frame:
            high = max(min(high, int(videos.max_video_tokens * token * 0.9) * temporal // frames), lowest)
        return videos.min_pixels, high, high
    if videos.cap_pixels_per_frame:
        high = max(min(videos.max_video_tokens * token, high // frames), lowest) * frames
    return videos.min_pixels / frames, high / frames, high / (round(frames / temporal) * temporal)


def _most_tokens(least: float, high: float, kept: float) -> int:
    """The largest product of two whole sides, given three areas in tokens: scaled up to, scaled down to, left alone."""
    found = math.floor(max(high, kept) * _SLACK)
    if high < MAX_ASPECT_RATIO:  # a strip thinner than a token is cut one token wide, as long as it is
        found = max(found, math.floor(math.sqrt(MAX_ASPECT_RATIO * high) * _SLACK))
    longest = math.sqrt(MAX_ASPECT_RATIO * least)
    for short in range(1, math.ceil(math.sqrt(least) * _SLACK) + 1):
        long = longest if short == 1 else min(longest, least / (short - 1))
        found = max(found, short * math.ceil(long * _SLACK))
    return found
