"""Picture → RGB → resized → patches, by the rules that all families share.

The resize rule, the patch order and the arithmetic of the normalization follow transformers'
`Qwen2VLImageProcessorPil`; tests hold the patches exactly equal to its. A video's frames become
patches here, too.
"""

from __future__ import annotations

import functools
import io
import math
import os
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_runtime.contract.media.colors import check_samples, upright_rgb
from lame_runtime.contract.media.decoders import (
    load_own,
    load_shared,
    open_header,
    translated_errors,
)
from lame_runtime.contract.media.decoding_limits import (
    MAX_ASPECT_RATIO,
    MAX_DECODING_BYTES,
    Reserve,
    check_array,
    check_size,
    most_decoding_bytes,
)
from lame_runtime.contract.media.pages import PDF_MARK, is_pdf, render_bytes, render_page
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import shown
from lame_runtime.files.in_memory import array_picture
from lame_runtime.files.urls import open_media, path_name, resolved

__all__ = [
    "MAX_ASPECT_RATIO",
    "ImageSource",
    "array_image",
    "fit",
    "frame_patches",
    "open_image",
    "resized_pixels",
    "smart_resize",
]

ImageSource = str | os.PathLike[str] | bytes | Image.Image
Channels = tuple[float, float, float]


def open_image(
    source: ImageSource, rules: ImageRules, reserve: Reserve | None = None
) -> Image.Image:
    """Reads a picture as upright 8-bit RGB.

    EXIF orientation is applied. Transparency is laid over white. Palettes, gray and 16-bit pictures
    become 8-bit RGB, and so does CMYK, by its color profile if it has one; profiles of RGB and gray
    are ignored, as by the families' own processors. Of an animation, only the first frame is used.

    The formats are those of `decoders.FORMATS`, whatever the name says. Only regular files are
    read. At most 1,000 MB are in memory for any picture within `max_source_pixels`: one whose
    decoder would take more is refused by its header.

    Args:
        source: a path, encoded bytes, a `data:` URI, or a PIL picture. A PIL picture that is not
            loaded yet is loaded, otherwise it is left unchanged; threads may share it. `a.pdf` is a
            PDF of one page, `a.pdf#page=2` a page of one.
        rules: for `max_source_pixels`.
        reserve: called with the memory that decoding will take, before it is taken.

    Returns:
        A picture of the mode RGB, to be read only: a given picture that is upright RGB is returned
        as it is.

    Raises:
        InputError: the source is missing, not a regular file, a URL, unreadable, truncated, not a
            picture, a closed PIL picture, or a picture that is no part of its animation; or it has
            no pixels, too many pixels, an aspect ratio above 200, samples without a fixed range, or
            a transparent color of unknown depth; or its decoder would take too much memory.
    """
    source = resolved(source)
    if isinstance(source, os.PathLike):
        source = path_name(source)
    name = _name(source)
    if isinstance(source, Image.Image):
        # a picture of a class of the caller's may raise anything anywhere
        with translated_errors(name):
            check_size(source.size, name, rules)
            check_samples(source, name)
            if reserve:
                # not what decoding takes exactly: that would be known only under the lock
                reserve(most_decoding_bytes(source))
            load_shared(source, name, rules)
            return upright_rgb(source, name)
    if isinstance(source, bytes):
        if not source.startswith(PDF_MARK):
            return _decoded(io.BytesIO(source), name, rules, reserve)
        _reserve_all(reserve)
        return render_bytes(source, name, rules)
    # `a.pdf#page=2` is no file's name, so pages go first
    if is_pdf(source):
        _reserve_all(reserve)
        return render_page(source, rules)
    with open_media(source, "picture") as file:
        return _decoded(file, name, rules, reserve)


def _reserve_all(reserve: Reserve | None) -> None:
    # a page does not tell what PDFium takes for it
    if reserve:
        reserve(MAX_DECODING_BYTES)


def array_image(pixels: npt.NDArray[Any]) -> Image.Image:
    """Returns an array as a picture, a copy.

    Args:
        pixels: uint8 (height, width, 3), RGB.

    Raises:
        InputError: another type or shape, a strip, or a copy would take too much memory.
    """
    if pixels.ndim == 3:
        check_array(pixels.shape)
    return array_picture(pixels)


def _decoded(file: IO[bytes], name: str, rules: ImageRules, reserve: Reserve | None) -> Image.Image:
    image = open_header(file, name, rules, reserve)
    check_samples(image, name)
    load_own(image, name)
    # a TIFF has its upright size only now
    check_size(image.size, name, rules)
    with translated_errors(name):
        return upright_rgb(image, name)


def smart_resize(height: int, width: int, rules: ImageRules) -> tuple[int, int]:
    """Returns the size (height, width) that a picture is resized to.

    Both sides are multiples of patch × merge, and the area is within the pixel budget. As
    `smart_resize` of Qwen2-VL, it rounds each side, then scales down (floor) or up (ceil) if the
    area leaves [min_pixels, max_pixels].
    """
    factor = rules.patch_size * rules.merge_size
    # Python's `round` takes halves to the even neighbor, and so does the processor. Rounding them
    # up would give another size halfway between two multiples.
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > rules.max_pixels:
        # The short side of a strip would come out as 0 without the lower bound.
        shrink = math.sqrt(height * width / rules.max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < rules.min_pixels:
        grow = math.sqrt(rules.min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def fit(image: Image.Image, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Returns an RGB picture at another size: uint8 (height, width, 3)."""
    if (image.height, image.width) != (height, width):
        # The processors' filter. Pillow widens it when it shrinks a picture (antialiasing).
        image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    return np.asarray(image)


def resized_pixels(image: Image.Image, rules: ImageRules) -> npt.NDArray[np.uint8]:
    """Returns an upright RGB picture at its size for patches: uint8 (height, width, 3)."""
    return fit(image, *smart_resize(image.height, image.width, rules))


def frame_patches(
    frames: npt.NDArray[np.uint8], rules: ImageRules, mean: Channels, std: Channels
) -> npt.NDArray[np.float32]:
    """Normalizes resized frames and cuts them into patches, as the processors do.

    The vision graph does this itself. This function serves PyTorch models, fingerprints and tests.

    Args:
        frames: uint8 (n, depth, height, width, 3). The depth is the temporal patch size, or 1 if a
            frame fills its whole temporal patch, as a picture does.
        rules: the patch geometry.
        mean: mean of each channel, on the 0..1 scale.
        std: standard deviation of each channel, on the 0..1 scale.

    Returns:
        float32 (n, patches, patch_dim): the patches of one merge block adjacent,
        each flattened as (channel, temporal, row, column).
    """
    table_VC = _normalization_table(mean, std)
    # Looked up by sample value: the same floats as computing them, several times faster.
    pixels_CNTHW = np.stack([table_VC[:, c][frames[..., c]] for c in range(3)])
    patch, merge = rules.patch_size, rules.merge_size
    _, depth, height, width, _ = frames.shape
    rows, columns = height // patch, width // patch
    blocks = pixels_CNTHW.reshape(
        3, -1, depth, rows // merge, merge, patch, columns // merge, merge, patch
    )
    # (time, block row, block column, row and column in the block, channel, temporal, row, column)
    blocks = blocks.transpose(1, 3, 6, 4, 7, 0, 2, 5, 8)
    if depth == 1:
        # Repeated last, so that everything before works on one frame only.
        blocks = np.repeat(blocks, rules.temporal_patch_size, axis=6)
    return blocks.reshape(-1, rows * columns, rules.patch_dim)


@functools.cache
def _normalization_table(mean: Channels, std: Channels) -> npt.NDArray[np.float32]:
    """Returns the normalized value of each sample value and channel: float32 (256, 3).

    Precision and order of the operations are the processor's; another order differs in the last
    bit.
    """
    unit = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)[:, None]
    table: npt.NDArray[np.float32] = np.subtract(unit, np.array(mean, dtype=np.float32))
    table /= np.array(std, dtype=np.float32)
    return table


def _name(source: str | bytes | Image.Image) -> str:
    if isinstance(source, Image.Image):
        # Pillow keeps the path of a picture that was opened from a file.
        name = getattr(source, "filename", "")
        is_name = isinstance(name, str | bytes) and name
        return shown(os.fsdecode(name)) if is_name else "the given picture"
    return "the given bytes" if isinstance(source, bytes) else shown(source)
