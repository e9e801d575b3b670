"""Which pictures are decoded: limits on their size, and on the memory that decoding takes.

All is computed from the header. A file of a few kilobytes can hold the largest picture that
`max_source_pixels` allows, and some decoders keep several copies of it. The figures per pixel were
measured with Pillow 13.0, as growth of the resident memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from PIL import Image, ImageFile

from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError

MAX_ASPECT_RATIO = 200
"""Longer strips are refused, as by Qwen2-VL's processor."""
MAX_DECODING_BYTES = 800_000_000
"""Most memory that decoding one picture and making it RGB may take. With the program and a resized
copy this stays below 1,000 MB."""
MAX_SCANS = 100
"""Most scans of a progressive JPEG, which is also the limit of `jpegtran`."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Most scans × pixels of a progressive JPEG: each scan goes over the whole picture."""
MAX_SLOW_PIXELS = 4_000_000
"""Most pixels of a picture whose decoder Pillow wrote in Python: some seconds."""

Reserve = Callable[[int], object]
"""Called with the number of bytes that decoding is about to take, where threads share memory: may
wait until they are free. It is never called under a lock."""

_SLOW_DECODERS = frozenset({"ppm", "ppm_plain", "bmp_rle"})
_RGB = 4
"""Bytes that Pillow stores for a pixel of RGB, and of every mode that is not below."""
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_START_OF_SCAN = b"\xff\xda"
_BLOCK = 1 << 20


def check_size(size: tuple[int, int], name: str, rules: ImageRules) -> None:
    """Checks the width and height of a picture.

    Raises:
        InputError: no pixels, too many pixels, or a strip.
    """
    width, height = size
    if width * height == 0:
        raise InputError(
            f"{name}: the picture has no pixels ({width}×{height}); give one of at least 1×1"
        )
    if width * height > rules.max_source_pixels:
        raise InputError(
            f"{name}: {width * height / 1e6:.0f} megapixels, the limit is "
            f"{rules.max_source_pixels / 1e6:.0f}; scale it down first"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(
            f"{name}: one side of {width}×{height} is over {MAX_ASPECT_RATIO} times the other; "
            "crop it"
        )


def check_memory(needed: int, size: tuple[int, int], name: str) -> None:
    """Refuses a picture whose decoding takes more than `MAX_DECODING_BYTES`.

    Raises:
        InputError: decoding takes more.
    """
    if needed > MAX_DECODING_BYTES:
        raise InputError(
            f"{name}: decoding its {size[0]}×{size[1]} pixels takes about {needed / 1e6:,.0f} MB "
            f"in this format, the limit is {MAX_DECODING_BYTES / 1e6:,.0f}; scale it down first"
        )


def check_array(shape: tuple[int, ...]) -> None:
    """Checks an array (height, width, 3) before it is copied: a view of a few bytes can stand for
    gigabytes.

    Raises:
        InputError: a strip, or its copy would take more than `MAX_DECODING_BYTES`.
    """
    height, width = shape[:2]
    if max(height, width) > MAX_ASPECT_RATIO * max(min(height, width), 1):
        raise InputError(
            f"the picture is an array of {width}×{height} pixels, and one side is over "
            f"{MAX_ASPECT_RATIO} times the other; crop it"
        )
    # one copy without gaps, and one as a picture
    needed = (3 + _RGB) * height * width
    if needed > MAX_DECODING_BYTES:
        raise InputError(
            f"the picture is an array of {width}×{height} pixels, which takes about "
            f"{needed / 1e6:,.0f} MB to read, the limit is {MAX_DECODING_BYTES / 1e6:,.0f}; "
            "scale it down first"
        )


def webp_bytes(size: tuple[int, int]) -> int:
    """Returns the memory that a WebP takes: two canvases, two copies and what is decoded."""
    return 20 * size[0] * size[1]


def most_decoding_bytes(image: Image.Image) -> int:
    """Returns what `decoding_bytes` returns at most for a picture, without reading its file."""
    if image.format == "TIFF":
        return MAX_DECODING_BYTES
    # the others keep at most two bytes for each of four samples, or one more copy in RGB
    pixel_bytes = 22 if image.format in ("WEBP", "AVIF") else 12
    return pixel_bytes * image.width * image.height


def decoding_bytes(image: ImageFile.ImageFile, name: str) -> int:
    """Returns about how many bytes decoding takes, with the RGB picture that is made of it.

    A decoded pixel has 1 byte (gray, palettes), 2 (16 bits) or 4, and one of RGB has 4. In
    addition, JPEG with several scans keeps two bytes for each sample, WebP and AVIF keep copies of
    the picture, TIFF keeps a strip or tile and what it was compressed to, and PPM with a maximum
    other than 255 keeps two copies.

    Raises:
        InputError: decoding would take minutes: a JPEG of many scans, or a decoder in Python.
    """
    pixels = image.width * image.height
    if image.tile and image.tile[0][0] in _SLOW_DECODERS and pixels > MAX_SLOW_PIXELS:
        raise InputError(
            f"{name}: {pixels / 1e6:.0f} megapixels take too long to decode as they are stored, "
            f"the limit is {MAX_SLOW_PIXELS / 1e6:.0f}; save the picture as PNG"
        )
    stored = _STORED.get(image.mode, _RGB) * pixels
    while_decoding = 0
    if image.format == "WEBP":
        return webp_bytes(image.size)
    if image.format == "AVIF":
        return (22 if image.mode == "RGBA" else 18) * pixels
    if image.format in ("JPEG", "MPO"):
        while_decoding = _coefficient_bytes(image, name)
    elif image.format == "TIFF":
        while_decoding = _strip_bytes(image)
    elif image.format == "PPM" and image.tile[0][0] != "raw":
        while_decoding = 2 * stored
    # what only the decoder needs is free again before the picture becomes RGB
    return stored + max(while_decoding, _RGB * pixels)


def _coefficient_bytes(image: ImageFile.ImageFile, name: str) -> int:
    """Returns the size of a JPEG's coefficients; 0 if one scan holds all, so that none are kept."""
    # (component, horizontal and vertical sampling, quantization table) of each channel
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    file = image.fp
    if not layers or file is None:
        return 0
    position = file.tell()
    try:
        channels = _channels_of_first_scan(file)
        if channels == len(layers) and not image.info.get("progressive"):
            return 0
        scans = 1 + _count(file, _START_OF_SCAN)
    finally:
        file.seek(position)
    pixels = image.width * image.height
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
        raise InputError(
            f"{name}: a JPEG of {scans} scans and {pixels / 1e6:.0f} megapixels takes too long to "
            "decode; save it as a baseline JPEG or PNG"
        )
    widest, highest = max(layer[1] for layer in layers), max(layer[2] for layer in layers)
    samples = sum(pixels * layer[1] * layer[2] // (widest * highest) for layer in layers)
    return 2 * samples


def _channels_of_first_scan(file: IO[bytes]) -> int:
    """Returns how many channels a JPEG's first scan holds, and leaves the file after that number.

    0 stands for a file that only a lenient decoder can follow.
    """
    file.seek(2)
    while True:
        marker = file.read(2)
        while marker == b"\xff\xff":
            marker = b"\xff" + file.read(1)
        if len(marker) < 2 or marker[0] != 0xFF:
            return 0
        length = int.from_bytes(file.read(2), "big")
        if marker == _START_OF_SCAN:
            return (file.read(1) or b"\0")[0]
        file.seek(max(length - 2, 0), 1)


def _count(file: IO[bytes], mark: bytes) -> int:
    """Returns how often a mark of two bytes occurs in the rest of a file."""
    total, last = 0, b""
    # compressed data cannot hold the mark, so this counts scans, and hardly anything else
    while block := file.read(_BLOCK):
        total += (last + block).count(mark)
        last = block[-1:]
    return total


def _strip_bytes(image: ImageFile.ImageFile) -> int:
    """Returns the size of a TIFF's largest strip or tile, with its compressed data."""
    tags = getattr(image, "tag_v2", {})
    width = int(tags.get(322, image.width))
    rows = int(tags.get(323, min(int(tags.get(278, image.height)), image.height)))
    bits = tags.get(258, (1,))
    # some compressions are decoded to 4 bytes whatever the samples are
    depth = max(sum(bits) if isinstance(bits, tuple) else int(bits), 32) / 8
    strip = int(width * rows * depth)
    if image.tile[0][0] != "libtiff" or image.fp is None:
        # uncompressed: the strip is read and appended to what is left of the one before
        return 2 * strip if len(image.tile) > 1 else 0
    position = image.fp.tell()
    # libtiff maps the file into memory
    size = image.fp.seek(0, 2)
    image.fp.seek(position)
    return strip + size
