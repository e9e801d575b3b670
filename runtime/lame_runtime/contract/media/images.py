"""Picture → RGB → resized → patches, by the rules that all three families share.

The resize rule, the patch order and the arithmetic of the normalization follow transformers'
`Qwen2VLImageProcessorPil`; tests hold the patches exactly equal to its. A video's frames become
patches here, too.
"""

from __future__ import annotations

import functools
import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lame_runtime.contract.media.pages import is_pdf, render_page
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError

ImageSource = str | os.PathLike[str] | bytes | Image.Image
Channels = tuple[float, float, float]
MAX_ASPECT_RATIO = 200
"""Longer strips are refused, as by Qwen2-VL's processor."""


def open_image(source: ImageSource, rules: ImageRules) -> Image.Image:
    """Reads a picture as upright 8-bit RGB.

    EXIF orientation is applied. Transparency is laid over white. Palettes, gray, CMYK and 16-bit
    pictures become 8-bit RGB. Of an animation the first frame is taken.

    Args:
        source: a path, encoded bytes, or a PIL picture (left unchanged); `a.pdf#page=2` is a page
            of a PDF.
        rules: for `max_source_pixels`.

    Raises:
        InputError: missing, unreadable, truncated or not a picture, no pixels, too many pixels, an
            aspect ratio above 200, or 32-bit float samples.
    """
    name = _name(source)
    # Decoding is lazy in Pillow: most damage shows only when the pixels are converted to RGB, so
    # that happens inside the `with`, too.
    with _translated_errors(name, rules):
        # `a.pdf#page=2` is no file's name, so pages go first.
        if isinstance(source, str | os.PathLike) and is_pdf(name):
            return _upright_rgb(render_page(name, rules), name, rules)
        if isinstance(source, Image.Image):
            return _upright_rgb(source, name, rules)
        with (
            io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file,
            _open(file) as image,
        ):
            return _upright_rgb(image, name, rules)


@contextmanager
def _translated_errors(name: str, rules: ImageRules) -> Iterator[None]:
    """Turns the errors of Pillow and of the file system into `InputError`."""
    try:
        yield
    except Image.DecompressionBombError:
        # Pillow raises this at twice its own limit, before `_upright_rgb` can see the size.
        raise _too_large(name, None, rules) from None
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder, not a picture; name the files in it") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not a picture in a format Pillow reads; convert it to PNG or JPEG"
        ) from None
    # Pillow reports damage with any of these, depending on the format.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(
            f"{name}: the picture cannot be decoded ({error}); it may be truncated or damaged"
        ) from None


def _open(file: IO[bytes]) -> Image.Image:
    """Reads the header; the contract's limit on the size replaces Pillow's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def _upright_rgb(image: Image.Image, name: str, rules: ImageRules) -> Image.Image:
    # Nothing is decoded before these checks: Pillow reads the pixels when they are first used.
    width, height = image.size
    if width * height == 0:
        raise InputError(
            f"{name}: the picture has no pixels ({width}×{height}); give one of at least 1×1"
        )
    if width * height > rules.max_source_pixels:
        raise _too_large(name, width * height, rules)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(
            f"{name}: {width}×{height} is more than {MAX_ASPECT_RATIO} times longer than wide; "
            "crop it"
        )
    return _to_rgb(ImageOps.exif_transpose(image), name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise InputError(
            f"{name}: 32-bit float samples have no fixed range; convert the picture to 8 or 16 bits"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would clip 16-bit samples at 255 instead of scaling them.
        samples = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(samples, 0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # Dropping the alpha channel would show whatever color transparent pixels hide.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


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
    """Normalizes resized frames and cuts them into patches.

    Args:
        frames: uint8 (n, height, width, 3). A picture is one frame and fills its whole temporal
            patch; otherwise n is a multiple of the temporal patch size.
        rules: the patch geometry.
        mean: mean of each channel, on the 0..1 scale.
        std: standard deviation of each channel, on the 0..1 scale.

    Returns:
        float32 (temporal patches, patches, patch_dim): the patches of one merge block adjacent,
        each flattened as (channel, temporal, row, column).
    """
    table_VC = _normalization_table(mean, std)
    depth = 1 if len(frames) == 1 else rules.temporal_patch_size
    # Looked up by sample value: the same floats as computing them, several times faster.
    pixels_CTHW = np.stack([table_VC[:, c][frames[:, :, :, c]] for c in range(3)])
    patch, merge = rules.patch_size, rules.merge_size
    rows, columns = frames.shape[1] // patch, frames.shape[2] // patch
    blocks = pixels_CTHW.reshape(
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


def _too_large(name: str, pixels: int | None, rules: ImageRules) -> InputError:
    # Without a number if Pillow refused the picture by itself.
    size = f"{pixels / 1e6:.0f} megapixels" if pixels else "an enormous picture"
    return InputError(
        f"{name}: {size}, the limit is {rules.max_source_pixels / 1e6:.0f}; scale it down first"
    )


def _name(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        # Pillow keeps the path of a picture that was opened from a file.
        return str(getattr(source, "filename", "") or "the given picture")
    return "the given bytes" if isinstance(source, bytes) else str(os.fspath(source))
