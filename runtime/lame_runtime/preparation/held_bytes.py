"""Measures what inputs hold while they wait, and what they may take once they are prepared."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from lame_runtime.contract.prompts import Input, Picture
from lame_runtime.contract.rules import Contract

_CHANNELS = 3
_LOADED = 4
"""Bytes of a pixel of a PIL picture."""


def waiting_bytes(item: Input) -> int:
    """Returns about what a converted input holds in memory: encoded bytes, pictures and arrays."""
    total = 0
    for part in item.parts:
        if not isinstance(part, str):
            source = part.source
            frames = source if isinstance(source, tuple) else (source,)
            total += sum(_source_bytes(frame) for frame in frames)
    return total


def most_prepared_bytes(item: Input, contract: Contract) -> int:
    """Returns the most that the pictures and videos of an input can take once they are resized."""
    images, limits = contract.images, contract.limits
    visuals = [part for part in item.parts if not isinstance(part, str)]
    most = limits.patches * images.patch_size**2 * _CHANNELS
    if all(isinstance(visual, Picture) for visual in visuals):
        return min(len(visuals) * images.max_pixels * _CHANNELS, most)
    # a patch of a video comes from several frames
    return most * images.temporal_patch_size


def _source_bytes(source: Any) -> int:
    if isinstance(source, bytes):
        return len(source)
    if isinstance(source, np.ndarray):
        return int(source.nbytes)
    if not isinstance(source, Image.Image):
        return 0
    try:
        return int(source.width * source.height * _LOADED)
    except Exception:  # whatever a caller's class raises; its preparation will name it
        return 0
