"""The transparent color of pictures without an alpha channel, at the depth of their samples.

A PNG of 2, 4 or 16 bits names its transparent color at its own depth, and Pillow keeps that number
although it scales the samples to 8 bits. The depth is known until the pixels are loaded, and not
afterward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from lame_runtime.errors import InputError

_STRIP_PIXELS = 1 << 20
# in `info`, because copies of a picture keep that
_SETTLED = "lame_transparency_has_8_bits"
_GRAY = frozenset({"1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N"})


def check_transparency(image: Image.Image, name: str) -> None:
    """Checks that a transparent color is one of the picture's mode, which its header tells.

    Raises:
        InputError: it is something else, or has 16 bits for each channel.
    """
    if "transparency" not in image.info:
        return
    key, mode = image.info["transparency"], image.mode
    is_number = _is_sample(key)
    if mode == "RGB":
        is_color = isinstance(key, tuple | list) and len(key) == 3 and all(map(_is_sample, key))
        if is_color and max(key) > 255:
            raise _deep(name)
    elif mode == "P":
        is_color = isinstance(key, bytes) or (is_number and key < 256)
    else:
        is_color = is_number or mode not in _GRAY
    if not is_color:
        raise InputError(
            f'{name}: its `info["transparency"]` is not a color of the mode {mode}; '
            "delete the entry, or give the picture's path"
        )


def settle_transparency(image: Image.Image, name: str) -> None:
    """Scales the transparent gray of a PNG of 2 or 4 bits to 8, as Pillow scales its samples.

    Args:
        image: a picture whose pixels are not loaded yet.
        name: how messages name it.

    Raises:
        InputError: the transparent color has 16 bits for each channel, and Pillow keeps only 8 of
            the pixels, so that the transparent ones cannot be told from similar ones.
    """
    tile, key = getattr(image, "tile", None), image.info.get("transparency")
    if image.format != "PNG" or not tile or key is None or _SETTLED in image.info:
        return
    stored = tile[0][3]
    if stored == "RGB;16B":
        raise _deep(name)
    if scale := {"L;2": 85, "L;4": 17}.get(stored):
        image.info["transparency"] = key * scale
    image.info[_SETTLED] = True


def require_known_transparency(image: Image.Image, name: str) -> None:
    """Refuses a picture that someone else loaded if the depth of its transparent color matters.

    That of an RGB PNG may have had 16 bits, so that it is doubtful where it occurs. That of a gray
    PNG, or of a copy, is doubtful if it occurs nowhere at 8 bits, but does at another depth.

    Raises:
        InputError: the color is doubtful.
    """
    key = image.info.get("transparency")
    # in other formats it has 8 bits
    if key is None or image.format not in ("PNG", None) or _SETTLED in image.info:
        return
    color: tuple[int, ...]
    readings: set[tuple[int, ...]]
    if image.mode == "L":
        color, readings = (int(key),), {(gray,) for gray in _scaled(key)}
    elif image.mode == "RGB":
        color = tuple(map(int, key))
        # the upper half of a small number of 16 bits
        readings = {(0, 0, 0)}
        if len(set(color)) == 1:
            readings |= {(gray, gray, gray) for gray in _scaled(color[0])}
    else:
        return
    if image.mode == "RGB" and image.format == "PNG":
        is_doubtful = _occurs(image, readings | {color})
    else:
        others = readings - {color}
        is_doubtful = bool(others) and not _occurs(image, {color}) and _occurs(image, others)
    if is_doubtful:
        raise InputError(
            f"{name}: the depth of its transparent color is unknown once it is loaded; give its "
            'path, its bytes, the picture before its `load`, or delete its `info["transparency"]`'
        )


def _is_sample(value: Any) -> bool:
    is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_number and 0 <= int(value) < 1 << 16


def _scaled(gray: int) -> set[int]:
    """Returns what a gray of 4 and of 2 bits is with 8."""
    return {int(gray) * scale for scale in (17, 85) if gray * scale <= 255}


def _occurs(image: Image.Image, colors: set[tuple[int, ...]]) -> bool:
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        samples = strip.reshape(strip.shape[0], width, -1)
        if any((samples == color).all(axis=2).any() for color in colors):
            return True
    return False


def _deep(name: str) -> InputError:
    return InputError(
        f"{name}: 16-bit RGB with a transparent color is not supported; "
        "save the picture with an alpha channel"
    )
