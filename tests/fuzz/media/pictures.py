"""Small pictures in many formats and modes."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, features


@dataclass(frozen=True)
class Sample:
    """Represents a media file.

    Attributes:
        name: what it is.
        suffix: suffix of its file name.
        data: the file's bytes.
        exact: whether a viewer shows exactly `pattern`.
    """

    name: str
    suffix: str
    data: bytes
    exact: bool = False


SIZE = (31, 23)


def pattern(width: int = SIZE[0], height: int = SIZE[1]) -> Image.Image:
    """Returns an RGB picture without symmetries, so that a wrong orientation shows."""
    y, x = np.mgrid[:height, :width]
    red = 255 * x // max(width - 1, 1)
    green = 255 * y // max(height - 1, 1)
    blue = 255 * ((x > width // 3) & (y > height // 2))
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8), "RGB")


@cache
def pictures() -> tuple[Sample, ...]:
    """Returns the samples of all formats that this Pillow can write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(_samples())


def _samples() -> Iterator[Sample]:
    rgb = pattern()
    yield from _pngs(rgb)
    yield from _jpegs(rgb)
    for mode in ("1", "L", "P", "RGB"):
        yield _saved(f"bmp {mode}", ".bmp", "BMP", rgb.convert(mode), exact=mode == "RGB")
    yield _saved("ppm", ".ppm", "PPM", rgb, exact=True)
    yield _saved("gif", ".gif", "GIF", rgb.convert("P"))
    frames = [rgb.rotate(angle) for angle in (90, 180)]
    yield _saved("gif animated", ".gif", "GIF", rgb, save_all=True, append_images=frames)
    yield from _tiffs(rgb)
    if features.check("webp"):
        yield _saved("webp lossless", ".webp", "WEBP", rgb, exact=True, lossless=True)
        yield _saved("webp lossy alpha", ".webp", "WEBP", rgb.convert("RGBA"))
        yield _saved("webp animated", ".webp", "WEBP", rgb, save_all=True, append_images=frames)
    if features.check("avif"):
        yield _saved("avif", ".avif", "AVIF", rgb)
        yield _saved("avif alpha", ".avif", "AVIF", rgb.convert("RGBA"))


def _pngs(rgb: Image.Image) -> Iterator[Sample]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        picture = rgb.convert("L").convert("I;16") if mode == "I;16" else rgb.convert(mode)
        yield _saved(f"png {mode}", ".png", "PNG", picture, exact=mode in ("RGB", "RGBA"))
    yield _saved("png transparency", ".png", "PNG", rgb, transparency=(255, 0, 0))
    yield Sample("png 16-bit", ".png", png_of_16_bits(rgb), exact=True)
    exif = Image.Exif()
    exif[0x112] = 6
    yield _saved("png turned", ".png", "PNG", rgb, exif=exif)
    frames = [rgb.rotate(180)]
    yield _saved("png animated", ".png", "PNG", rgb, save_all=True, append_images=frames)


def _jpegs(rgb: Image.Image) -> Iterator[Sample]:
    for mode in ("L", "RGB", "CMYK"):
        yield _saved(f"jpeg {mode}", ".jpg", "JPEG", rgb.convert(mode), quality=60)
    yield _saved("jpeg progressive", ".jpg", "JPEG", rgb, progressive=True)
    for orientation in (2, 5, 8):
        exif = Image.Exif()
        exif[0x112] = orientation
        yield _saved(f"jpeg orientation {orientation}", ".jpg", "JPEG", rgb, exif=exif)
    yield _saved("mpo", ".mpo", "MPO", rgb, save_all=True, append_images=[rgb])


def _tiffs(rgb: Image.Image) -> Iterator[Sample]:
    for mode in ("1", "L", "P", "RGBA", "CMYK", "LAB", "I;16", "I", "F", "YCbCr"):
        gray = mode in ("I;16", "I", "F")
        source = rgb.convert("L") if gray else rgb
        picture = Image.new(mode, SIZE) if mode == "LAB" else source.convert(mode)
        yield _saved(f"tiff {mode}", ".tif", "TIFF", picture)
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits"):
        yield _saved(
            f"tiff {compression}", ".tif", "TIFF", rgb, exact=True, compression=compression
        )
    yield _saved("tiff jpeg", ".tif", "TIFF", rgb, compression="jpeg")
    yield _saved("tiff fax", ".tif", "TIFF", rgb.convert("1"), compression="group4")
    yield _saved("tiff pages", ".tif", "TIFF", rgb, save_all=True, append_images=[rgb, rgb])


def _saved(
    name: str,
    suffix: str,
    kind: str,
    picture: Image.Image,
    *,
    exact: bool = False,
    **options: object,
) -> Sample:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return Sample(name, suffix, buffer.getvalue(), exact)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG with its right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits(rgb: Image.Image) -> bytes:
    """Returns an RGB picture as a PNG of 16 bits per sample, which Pillow cannot write."""
    samples = np.asarray(rgb).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", *rgb.size, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def large_png(side: int, color_type: int, depth: int) -> bytes:
    """Returns a black PNG of `side` × `side`, written in pieces so that it takes little memory."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    row = b"\0" + bytes(side * channels * depth // 8)
    packer = zlib.compressobj(1)
    pieces = [packer.compress(row) for _ in range(side)]
    body = b"".join([*pieces, packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", body)
        + png_chunk(b"IEND", b"")
    )
