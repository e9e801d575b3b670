"""Picture → RGB → resized → patches, by the rules all three families share.

The resize rule, the patch order and the arithmetic of the normalisation follow transformers'
`Qwen2VLImageProcessorPil`; tests hold the patches exactly equal to its. A video's frames become patches here too.
"""

from __future__ import annotations

import functools
import io
import math
import os
import warnings
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lame_runtime.contract.pages import is_pdf, render_page
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError

ImageSource = str | os.PathLike[str] | bytes | Image.Image
Channels = tuple[float, float, float]
MAX_ASPECT_RATIO = 200
"""Qwen2-VL refuses longer strips than this, and so do we."""


def open_image(source: ImageSource, rules: ImageRules) -> Image.Image:
    """Reads a picture as upright 8-bit RGB.

    EXIF orientation is applied; transparency is laid over white; palettes, grey, CMYK and 16-bit
    pictures become 8-bit RGB; of an animation the first frame is taken.

    Args:
        source: path, encoded bytes, or a PIL picture (left unchanged); `a.pdf#page=2` is a page of a PDF.
        rules: for `max_source_pixels`.

    Raises:
        InputError: missing, unreadable, truncated or not a picture, no pixels, too many pixels, an
            aspect ratio above 200, or 32-bit float samples.
    """
    name = _name(source)
    try:
        if isinstance(source, str | os.PathLike) and is_pdf(name):
            return _upright_rgb(render_page(name, rules), name, rules)
        if isinstance(source, Image.Image):
            return _upright_rgb(source, name, rules)
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file, _open(file) as image:
            return _upright_rgb(image, name, rules)
    except Image.DecompressionBombError:
        raise _too_large(name, None, rules) from None
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder, not a picture; name the files in it") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a picture in a format Pillow reads; convert it to PNG or JPEG") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow signals damage with any of these, depending on the format
        raise InputError(f"{name}: the picture cannot be decoded ({error}); it may be truncated or damaged") from None


def _open(file: IO[bytes]) -> Image.Image:
    """Reads the header; our own limit on the size replaces Pillow's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def _upright_rgb(image: Image.Image, name: str, rules: ImageRules) -> Image.Image:
    width, height = image.size
    if width * height == 0:
        raise InputError(f"{name}: the picture has no pixels ({width}×{height}); give one of at least 1×1")
    if width * height > rules.max_source_pixels:
        raise _too_large(name, width * height, rules)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(f"{name}: {width}×{height} is more than {MAX_ASPECT_RATIO} times longer than wide; crop it")
    return _to_rgb(ImageOps.exif_transpose(image), name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise InputError(f"{name}: 32-bit float samples have no fixed range; convert the picture to 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(samples, 0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def smart_resize(height: int, width: int, rules: ImageRules) -> tuple[int, int]:
    """The size (height, width) a picture is resized to: multiples of patch × merge, within the pixel budget.

    Follows `smart_resize` of Qwen2-VL: rounds each side, then scales down (floor) or up (ceil) where the
    area leaves [min_pixels, max_pixels].
    """
    factor = rules.patch_size * rules.merge_size
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > rules.max_pixels:
        shrink = math.sqrt(height * width / rules.max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < rules.min_pixels:
        grow = math.sqrt(rules.min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def fit(image: Image.Image, height: int, width: int) -> npt.NDArray[np.uint8]:
    """An RGB picture at another size: uint8 (height, width, 3)."""
    if (image.height, image.width) != (height, width):
        image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    return np.asarray(image)


def resized_pixels(image: Image.Image, rules: ImageRules) -> npt.NDArray[np.uint8]:
    """An upright RGB picture at the size the patches are cut from: uint8 (height, width, 3)."""
    return fit(image, *smart_resize(image.height, image.width, rules))


def frame_patches(frames: npt.NDArray[np.uint8], rules: ImageRules, mean: Channels, std: Channels) -> npt.NDArray[np.float32]:
    """Normalises resized frames and cuts them into patches.

    Args:
        frames: uint8 (n, height, width, 3); a still picture is one frame and fills its whole temporal patch,
            otherwise n is a multiple of the temporal patch size.
        rules: the patch geometry.
        mean: per channel, on the 0..1 scale.
        std: likewise.

    Returns:
        float32 (temporal patches, patches, patch_dim): the patches of one merge block adjacent, each flattened
        as (channel, temporal, row, column).
    """
    table_VC = _normalisation_table(mean, std)
    depth = 1 if len(frames) == 1 else rules.temporal_patch_size
    pixels_CTHW = np.stack([table_VC[:, c][frames[:, :, :, c]] for c in range(3)])
    patch, merge = rules.patch_size, rules.merge_size
    rows, columns = frames.shape[1] // patch, frames.shape[2] // patch
    blocks = pixels_CTHW.reshape(3, -1, depth, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.transpose(1, 3, 6, 4, 7, 0, 2, 5, 8)
    if depth == 1:
        blocks = np.repeat(blocks, rules.temporal_patch_size, axis=6)
    return blocks.reshape(-1, rows * columns, rules.patch_dim)


@functools.cache
def _normalisation_table(mean: Channels, std: Channels) -> npt.NDArray[np.float32]:
    """Normalised value of each of the 256 sample values per channel, float32 (256, 3), in the processor's arithmetic."""
    unit = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)[:, None]
    table: npt.NDArray[np.float32] = np.subtract(unit, np.array(mean, dtype=np.float32))
    table /= np.array(std, dtype=np.float32)
    return table


def _too_large(name: str, pixels: int | None, rules: ImageRules) -> InputError:
    found = f"{pixels / 1e6:.0f} megapixels" if pixels else "an enormous picture"
    return InputError(f"{name}: {found}, the limit is {rules.max_source_pixels / 1e6:.0f}; scale it down first")


def _name(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "the given picture")
    return "the given bytes" if isinstance(source, bytes) else str(os.fspath(source))
