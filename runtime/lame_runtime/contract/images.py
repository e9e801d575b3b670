"""Picture → RGB → resized → patches, by Qwen2-VL's rules.

The resize rule, the patch order and the arithmetic of the normalisation follow transformers'
`Qwen2VLImageProcessorPil`; tests hold the patches exactly equal to its.
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

from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError

ImageSource = str | os.PathLike[str] | bytes | Image.Image
MAX_ASPECT_RATIO = 200
"""Qwen2-VL refuses longer strips than this, and so do we."""


def open_image(source: ImageSource, rules: ImageRules) -> Image.Image:
    """Reads a picture as upright 8-bit RGB.

    EXIF orientation is applied; transparency is laid over white; palettes, grey, CMYK and 16-bit
    pictures become 8-bit RGB; of an animation the first frame is taken.

    Args:
        source: path, encoded bytes, or a PIL picture (left unchanged).
        rules: for `max_source_pixels`.

    Raises:
        InputError: missing, unreadable, truncated or not a picture, no pixels, too many pixels, an
            aspect ratio above 200, or 32-bit float samples.
    """
    name = _name(source)
    try:
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


def resized_pixels(image: Image.Image, rules: ImageRules) -> npt.NDArray[np.uint8]:
    """An upright RGB picture at the size the patches are cut from: uint8 (height, width, 3)."""
    height, width = smart_resize(image.height, image.width, rules)
    if (image.height, image.width) != (height, width):
        image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    return np.asarray(image)


def patch_grid(pixels: npt.NDArray[np.uint8], rules: ImageRules) -> tuple[int, int]:
    """Rows and columns of patches in a picture that `resized_pixels` returned."""
    return pixels.shape[0] // rules.patch_size, pixels.shape[1] // rules.patch_size


def image_patches(pixels: npt.NDArray[np.uint8], rules: ImageRules) -> npt.NDArray[np.float32]:
    """Normalises a resized picture and cuts it into patches.

    Args:
        pixels: uint8 (height, width, 3) from `resized_pixels`.
        rules: the contract's picture rules.

    Returns:
        float32 (patches, patch_dim): the patches of one merge block adjacent, each flattened as
        (channel, temporal, row, column).
    """
    table_VC = _normalisation_table(rules)
    pixels_CHW = np.stack([table_VC[:, c][pixels[:, :, c]] for c in range(3)])
    patch, merge = rules.patch_size, rules.merge_size
    rows, columns = patch_grid(pixels, rules)
    blocks = pixels_CHW.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    blocks = np.repeat(blocks, rules.temporal_patch_size, axis=5)  # a still picture fills every frame of its temporal patch
    return blocks.reshape(rows * columns, rules.patch_dim)


@functools.cache
def _normalisation_table(rules: ImageRules) -> npt.NDArray[np.float32]:
    """Normalised value of each of the 256 sample values per channel, float32 (256, 3), in the processor's arithmetic."""
    unit = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)[:, None]
    table: npt.NDArray[np.float32] = np.subtract(unit, np.array(rules.mean, dtype=np.float32))
    table /= np.array(rules.std, dtype=np.float32)
    return table


def _too_large(name: str, pixels: int | None, rules: ImageRules) -> InputError:
    found = f"{pixels / 1e6:.0f} megapixels" if pixels else "an enormous picture"
    return InputError(f"{name}: {found}, the limit is {rules.max_source_pixels / 1e6:.0f}; scale it down first")


def _name(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "the given picture")
    return "the given bytes" if isinstance(source, bytes) else str(os.fspath(source))
