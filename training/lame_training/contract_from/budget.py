"""The limits that a recipe sets for one input, and rules that are lowered to them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lame_runtime.contract import ImageRules, Limits, VideoRules


@dataclass(frozen=True)
class Budget:
    """How large one input may be (ours; the published limits would exceed most memories)."""

    max_length: int
    """Tokens of the prompt, latent tokens excluded."""
    max_pixels: int
    """Pixels of one picture, after resizing."""
    max_frames: int
    """Frames of one video."""
    visuals: int = 32
    """Pictures and videos."""


def limits(budget: Budget, images: ImageRules) -> Limits:
    """Returns the limits of one input: as many patches as fit into the longest prompt."""
    # the merger makes one token of merge_size² patches
    return Limits(budget.visuals, budget.max_length * images.merge_size**2)


def within_budget(rules: VideoRules, images: ImageRules, budget: Budget) -> VideoRules:
    """Lowers frames and pixels, so that every video fits into four fifths of the longest prompt.

    The last fifth is left for the text and for Qwen3-VL's timestamps. Rules are never raised.

    Args:
        rules: the video rules of the folder or of the family.
        images: the picture rules, for the size of a patch.
        budget: the recipe's limits.
    """
    frames = min(rules.max_frames, budget.max_frames)
    # The clip budget is checked before frames are filled up to whole temporal patches. Three frames
    # become four, a third more than the budget, and 0.6 · 4/3 = 0.8.
    share = 0.6 if rules.pixels_of == "clip" else 0.8
    # pixels of all frames that fill that many tokens: a token covers merge_size² patches of
    # temporal_patch_size frames
    pixels = (
        int(share * budget.max_length)
        * (images.patch_size * images.merge_size) ** 2
        * images.temporal_patch_size
    )
    rules = dataclasses.replace(rules, max_frames=frames, min_frames=min(rules.min_frames, frames))
    if rules.pixels_of == "clip":
        largest = min(rules.max_pixels, pixels)
        return dataclasses.replace(
            rules, max_pixels=largest, min_pixels=min(rules.min_pixels, largest // frames)
        )
    largest = min(rules.max_pixels, budget.max_pixels)
    return dataclasses.replace(
        rules,
        max_pixels=largest,
        # `clip_size` gives every frame at least 1.05 · min_pixels, however many frames there are
        min_pixels=min(rules.min_pixels, largest, int(pixels / frames / 1.05)),
        cap_pixels_per_frame=True,
        # `clip_size` uses 0.9 of these tokens
        max_video_tokens=min(rules.max_video_tokens, int(0.8 / 0.9 * budget.max_length)),
    )
