"""The picture and video rules that the published processor files of each family hold.

They stand in for a folder's own processor files if it has none.
"""

from __future__ import annotations

from typing import Any

from lame_runtime.contract import ImageRules, VideoRules

# Qwen2-VL and Qwen2.5-VL took over the normalization of CLIP.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Qwen3-VL maps pixels to -1..1.
QWEN3_MEAN = QWEN3_STD = (0.5, 0.5, 0.5)


def published_images(family: str) -> ImageRules:
    """Returns the picture rules of the family's published `preprocessor_config.json`."""
    if family.startswith("qwen3_vl"):
        return ImageRules(
            patch_size=16,
            temporal_patch_size=2,
            merge_size=2,
            min_pixels=65_536,
            max_pixels=16_777_216,
            mean=QWEN3_MEAN,
            std=QWEN3_STD,
        )
    return ImageRules(
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
        min_pixels=3_136,
        max_pixels=12_845_056,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )


def published_videos(family: str) -> VideoRules:
    """Returns the video rules of the family.

    For Qwen3-VL they are those of its published `video_preprocessor_config.json`. The two older
    families publish none; theirs are the constants of the authors' package `qwen-vl-utils`.
    """
    common: dict[str, Any] = {
        "fps": 2.0,
        "min_frames": 4,
        "max_frames": 768,
        "cap_pixels_per_frame": True,
        "tokens_per_second": 0.0,
    }
    if family.startswith("qwen3_vl"):
        return VideoRules(
            sampling="linspace",
            pixels_of="clip",
            min_pixels=4_096,
            max_pixels=25_165_824,
            max_video_tokens=768,
            timestamps=True,
            mean=QWEN3_MEAN,
            std=QWEN3_STD,
            **common,
        )
    # qwen-vl-utils counts pixels in units of 28 × 28, which is one token: 2 × 2 patches of 14 × 14
    return VideoRules(
        sampling="stride",
        pixels_of="frame",
        min_pixels=128 * 28 * 28,
        max_pixels=768 * 28 * 28,
        max_video_tokens=128_000,
        timestamps=False,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        **common,
    )
