"""Opens and loads pictures with an allow-list of Pillow's decoders, within bounds on memory.

`PIL.Image.open` tries every format that Pillow knows. One of them, PostScript, starts another
program, and many are so rare that their faults stay unknown. Here the first bytes choose among
`FORMATS`, and the decoders of other formats are not even imported.

Nothing is decoded before its size and the memory that its decoder takes are known to fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image, ImageFile, features

from lame_runtime.contract.media.decoding_limits import (
    check_memory,
    check_size,
    decoding_bytes,
    webp_bytes,
)
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError, first_line, shown
from lame_runtime.files.fork_lock import ForkLock

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""Formats that are read, by Pillow's names. PPM stands for PBM, PGM and PPM."""

_MEGABYTE = 1_000_000
_HEADER_BYTES = {
    # these decoders read the whole file before they know its size
    "WEBP": 100 * _MEGABYTE,
    "AVIF": 100 * _MEGABYTE,
    # editors store layers in tags
    "TIFF": 64 * _MEGABYTE,
    # Pillow joins the blocks of a comment in quadratic time
    "GIF": 2 * _MEGABYTE,
}
_MOST_HEADER_BYTES = 16 * _MEGABYTE
"""Most bytes that are read before the pixels, in formats not listed in `_HEADER_BYTES`."""
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
# pictures that a user opened may be an MPO, which is a JPEG with further JPEGs behind it
_ALLOWED = frozenset({*FORMATS, "MPO"})
_lock = ForkLock()


@contextmanager
def translated_errors(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises for a damaged picture into one line of an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(
            f"{name}: there is not enough memory to decode the picture; scale it down first"
        ) from None
    # Depending on format and damage, Pillow raises OSError, SyntaxError, ValueError, EOFError,
    # RuntimeError, struct.error, zlib.error, AssertionError, AttributeError, …
    except Exception as error:
        raise InputError(
            f"{name}: the picture cannot be decoded ({shown(first_line(error))}); "
            "it may be truncated or damaged"
        ) from None


def open_header(file: IO[bytes], name: str, rules: ImageRules) -> Image.Image:
    """Reads a picture's header; nothing is decoded.

    Args:
        file: the picture; it must stay open until the pixels are loaded.
        name: how messages name it.
        rules: for `max_source_pixels`.

    Raises:
        InputError: not a picture of `FORMATS`, damaged, or too large.
    """
    prefix = file.read(32)
    file.seek(0)
    kind = _identified(prefix)
    if kind is None:
        raise InputError(
            f"{name}: not a picture in a supported format ({', '.join(FORMATS)}); "
            "convert it to PNG or JPEG"
        )
    decoder = _decoders().get(kind)
    if decoder is None:
        raise InputError(
            f"{name}: the Pillow installed here cannot read {kind}; convert the picture to PNG"
        )
    if kind == "WEBP" and (size := _webp_size(prefix)):
        # the constructor of Pillow's decoder allocates two canvases of this size
        check_size(size, name, rules)
        check_memory(webp_bytes(size), size, name)
    metered = _MeteredFile(file, _HEADER_BYTES.get(kind, _MOST_HEADER_BYTES))
    with translated_errors(name):
        image = decoder(metered)
        # what may stand behind the header: samples of at most 64 bits, and more metadata
        most = 8 * image.width * image.height + _HEADER_BYTES["TIFF"]
        # once to look at the scans of a JPEG, once to decode
        metered.left = most
        check_loadable(image, name, rules)
        metered.left = most
        return image


def check_loadable(image: ImageFile.ImageFile, name: str, rules: ImageRules) -> None:
    """Checks a picture whose header was read and whose pixels were not.

    Raises:
        InputError: of another format, too large, or its decoder would take too much memory.
    """
    kind = image.format or "unknown"
    if kind not in _ALLOWED:
        raise InputError(
            f"{name}: pictures of the format {shown(kind)} are not read ({', '.join(FORMATS)} are);"
            " call its `load` first if you trust it"
        )
    check_size(image.size, name, rules)
    check_memory(decoding_bytes(image, name), image.size, name)


def load_shared(image: Image.Image, name: str, rules: ImageRules) -> None:
    """Loads the pixels of a picture that a caller handed in, which other threads may also use.

    Pillow's pictures are read when they are first used, and two threads that do so take each
    other's bytes. One thread at a time therefore loads. It also reads the EXIF data, which Pillow
    caches in a way that another thread could see half-filled.

    Raises:
        InputError: of another format, too large, damaged, or its file is closed.
    """
    with _lock:
        tiles = list(getattr(image, "tile", ()))
        if isinstance(image, ImageFile.ImageFile) and not _is_loaded(image):
            check_loadable(image, name, rules)
            _settle_transparency(image, name)
        try:
            with translated_errors(name):
                image.load()
                image.getexif()
        except InputError:
            # Pillow forgets what was to be decoded even if decoding fails. Without it, the next
            # call would take a partly decoded picture for a whole one.
            if tiles and not image.tile:  # type: ignore[attr-defined]
                image.tile = tiles  # type: ignore[attr-defined]
            if tiles and getattr(image, "fp", None) is None:
                raise InputError(
                    f"{name}: its file was closed before the pixels were read, or is damaged; "
                    "call the picture's `load` while the file is open, or give the path"
                ) from None
            raise


def load_own(image: Image.Image, name: str) -> None:
    """Loads the pixels of a picture from `open_header`."""
    with translated_errors(name):
        _settle_transparency(image, name)
        image.load()


class _MeteredFile:
    """A file from which only so many bytes can be read: a few kilobytes of a sparse file can
    claim gigabytes of metadata, which Pillow would read into memory.
    """

    def __init__(self, file: IO[bytes], left: int) -> None:
        self._file = file
        self.left = left

    def read(self, size: int | None = -1) -> bytes:
        most = self.left + 1 if size is None or size < 0 else min(size, self.left + 1)
        data = self._file.read(most)
        self.left -= len(data)
        if self.left < 0:
            raise OSError("it holds too much data besides its pixels")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _identified(prefix: bytes) -> str | None:
    """Returns the format that a file's first 12 bytes announce."""
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if prefix.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP":
        return "WEBP"
    if prefix.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if prefix.startswith(_TIFF_MARKS):
        return "TIFF"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _AVIF_BRANDS:
        return "AVIF"
    if prefix[:1] == b"P" and prefix[1:2] in tuple(b"123456"[i : i + 1] for i in range(6)):
        return "PPM"
    return "BMP" if prefix.startswith(b"BM") else None


@functools.cache
def _decoders() -> dict[str, Callable[[Any], ImageFile.ImageFile]]:
    """Returns the decoders that Pillow was built with."""
    # deferred, because each plug-in takes milliseconds
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    decoders: dict[str, Callable[[Any], ImageFile.ImageFile]] = {
        "PNG": PngImagePlugin.PngImageFile,
        # not `jpeg_factory`, which looks for further pictures behind the first
        "JPEG": JpegImagePlugin.JpegImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "PPM": PpmImagePlugin.PpmImageFile,
    }
    if features.check("webp"):
        decoders["WEBP"] = WebPImagePlugin.WebPImageFile
    try:
        from PIL import AvifImagePlugin  # new in Pillow 11.3
    except ImportError:
        return decoders
    if features.check("avif"):
        decoders["AVIF"] = AvifImagePlugin.AvifImageFile
    return decoders


def _webp_size(prefix: bytes) -> tuple[int, int] | None:
    """Returns the width and height in a WebP file's first 30 bytes, None if they hold none."""
    kind, body = prefix[12:16], prefix[20:]
    if kind == b"VP8 " and len(body) >= 10:
        return _little(body[6:8]) & 0x3FFF, _little(body[8:10]) & 0x3FFF
    if kind == b"VP8L" and len(body) >= 5:
        bits = _little(body[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(body) >= 10:
        return _little(body[4:7]) + 1, _little(body[7:10]) + 1
    return None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _is_loaded(image: ImageFile.ImageFile) -> bool:
    try:
        return not image.tile and image.im is not None
    # how newer versions of Pillow say that there are no pixels
    except (AssertionError, ValueError):
        return False


def _settle_transparency(image: Image.Image, name: str) -> None:
    """Scales the transparent gray of a PNG of 2 or 4 bits to 8, as Pillow scales its samples.

    Raises:
        InputError: the transparent color has 16 bits for each channel, and Pillow keeps only 8 of
            the pixels, so that the transparent ones cannot be told from similar ones.
    """
    tile, key = getattr(image, "tile", None), image.info.get("transparency")
    if image.format != "PNG" or not tile or key is None:
        return
    stored = tile[0][3]
    if stored == "RGB;16B":
        raise InputError(
            f"{name}: 16-bit RGB with a transparent color is not supported; "
            "save the picture with an alpha channel"
        )
    if scale := {"L;2": 85, "L;4": 17}.get(stored):
        image.info["transparency"] = key * scale
