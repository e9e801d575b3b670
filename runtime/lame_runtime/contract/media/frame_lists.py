"""Frames of a list, opened one after the other, so that one of them is in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_runtime.contract.media.images import ImageSource, open_image
from lame_runtime.contract.media.videos.video_frames import ShownFrame
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError, shown

MAX_LOADED_BYTES = 800_000_000
"""Memory limit, in bytes, for the PIL pictures of a list that reading it loads (they stay loaded)
and for one RGB copy."""
_PIXEL_BYTES = 4

Frame = ImageSource | npt.NDArray[np.uint8]


def listed_frames(source: Sequence[Frame], images: ImageRules) -> Iterator[ShownFrame]:
    """Yields the frames of a list; nothing keeps one while the next is opened.

    Raises:
        InputError: a frame cannot be read, or the list holds too many PIL pictures that are not
            loaded yet.
    """
    _require_loadable(source)
    for frame in source:
        yield _shown(_still(frame, images))


def _shown(still: Image.Image) -> ShownFrame:
    return ShownFrame(still, still.width, still.height)


def _require_loadable(source: Sequence[Frame]) -> None:
    """Checks the memory that the pictures of a list take once they are loaded."""
    pictures = {id(frame): frame for frame in source if isinstance(frame, Image.Image)}
    # what is still to be decoded; a picture that is loaded has none
    sizes = [frame.size for frame in pictures.values() if getattr(frame, "tile", None)]
    pixels = [width * height for width, height in sizes]
    needed = (sum(pixels) + max(pixels, default=0)) * _PIXEL_BYTES
    # one picture has a limit of its own
    if len(sizes) > 1 and needed > MAX_LOADED_BYTES:
        raise InputError(
            f"the video's {len(sizes):,} PIL pictures take {needed / 1e6:,.0f} MB to "
            f"load, the limit is {MAX_LOADED_BYTES / 1e6:,.0f}; give their paths"
        )


def _still(frame: Frame, images: ImageRules) -> Image.Image:
    if isinstance(frame, np.ndarray):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(
                f"a frame of the video is {frame.dtype} {shown(frame.shape)}; "
                "arrays must be uint8 (height, width, 3)"
            )
        # before it is copied: a view of a few bytes can stand for gigabytes
        if frame.shape[0] * frame.shape[1] > images.max_source_pixels:
            raise InputError(
                f"a frame of the video is {frame.shape[1]}×{frame.shape[0]}, the limit is "
                f"{images.max_source_pixels / 1e6:.0f} megapixels; scale it down first"
            )
        return open_image(Image.fromarray(frame), images)
    if not isinstance(frame, str | os.PathLike | bytes | Image.Image):
        raise InputError(
            f"a frame of the video is a {type(frame).__name__}; "
            "use paths, bytes, PIL pictures or uint8 arrays"
        )
    return open_image(frame, images)
