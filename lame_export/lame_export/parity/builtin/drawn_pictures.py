"""Pictures of many sizes: colors, gradients, noise, patterns, shapes and written text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lame_export.parity.builtin.languages import ENGLISH

SIZES = (
    *((1, 1), (10, 10), (9, 5), (4, 60), (28, 28), (56, 84), (64, 64), (90, 30)),
    *((100, 140), (128, 128), (200, 50), (40, 240), (160, 120), (224, 224), (300, 200)),
    *((320, 240), (400, 100), (240, 426), (448, 448), (1152, 896)),
)
"""Widths and heights, from one pixel to about a megapixel."""
FLAT_COLORS = ((0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (20, 40, 160))
MOST_CELLS = 96
"""Most cells of noise in a row or column: noise is not compressed, so cells grow instead."""
Draw = Callable[[int, int, np.random.Generator], Image.Image]
"""Draws a picture of a width and a height."""


def draw_pictures(rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Draws a picture, and another view of it: mirrored, gray or at half the size."""
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    picture = DRAWINGS[int(rng.integers(len(DRAWINGS)))](width, height, rng)
    views = (
        lambda: ImageOps.mirror(picture),
        lambda: ImageOps.grayscale(picture),
        lambda: picture.resize((-(-width // 2), -(-height // 2)), Image.Resampling.BICUBIC),
    )
    return picture, views[int(rng.integers(len(views)))]()


def _flat(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    color = FLAT_COLORS[int(rng.integers(len(FLAT_COLORS)))]
    return Image.new("RGB", (width, height), color)


def _gradient(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    rows, columns = _grid(width, height)
    share = rng.random()
    return _between(share * rows / height + (1 - share) * columns / width, rng)


def _waves(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    rows, columns = _grid(width, height)
    down, right = rng.uniform(-1, 1, size=2)
    return _between((np.sin(down * rows + right * columns) + 1) / 2, rng)


def _checkerboard(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    rows, columns = _grid(width, height)
    side = int(rng.integers(1, 1 + max(1, min(width, height) // 2)))
    return _between(((rows // side + columns // side) % 2).astype(np.float64), rng)


def _noise(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    shape = (min(height, MOST_CELLS), min(width, MOST_CELLS), 3)
    cells = Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8))
    return cells.resize((width, height), Image.Resampling.NEAREST)


def _clouds(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draws smooth patches of color, as blurred photographs have them."""
    cells = Image.fromarray(rng.integers(256, size=(5, 5, 3), dtype=np.uint8))
    return cells.resize((width, height), Image.Resampling.BICUBIC)


def _shapes(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (width, height), _color(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(1, 6))):
        # sorted, because Pillow wants the upper left corner first
        left, right = sorted(rng.integers(width, size=2).tolist())
        top, bottom = sorted(rng.integers(height, size=2).tolist())
        color, kind = _color(rng), int(rng.integers(4))
        if kind == 0:
            pen.ellipse((left, top, right, bottom), fill=color)
        elif kind == 1:
            pen.rectangle((left, top, right, bottom), outline=color, width=3)
        elif kind == 2:
            pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=color)
        else:
            pen.line((left, top, right, bottom), fill=color, width=2)
    return picture


def _written(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    # Pillow's own font has few letters beyond those of English
    sentences = ENGLISH.sentences
    size = int(rng.integers(10, 25))
    lines = -(-height // size)
    text = "\n".join(sentences[int(index)] for index in rng.integers(len(sentences), size=lines))
    is_dark = rng.random() < 0.3
    picture = Image.new("RGB", (width, height), "black" if is_dark else "white")
    ink = "white" if is_dark else _color(rng) if rng.random() < 0.3 else "black"
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).multiline_text((2, 0), text, fill=ink, font=font, spacing=0)
    return picture


DRAWINGS: tuple[Draw, ...] = (
    *(_flat, _gradient, _waves, _checkerboard, _noise, _clouds, _shapes, _written),
)


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(256, size=3).tolist()
    return red, green, blue


def _grid(width: int, height: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Returns the rows (height, 1) and columns (1, width) of all pixels."""
    return np.arange(height)[:, None], np.arange(width)[None]


def _between(shares: npt.NDArray[np.float64], rng: np.random.Generator) -> Image.Image:
    """Colors shares from 0 to 1, float64 (height, width), from one random color to another."""
    first, last = rng.integers(256, size=(2, 3))
    pixels = first + (last - first) * shares[..., None]
    return Image.fromarray(pixels.astype(np.uint8))
