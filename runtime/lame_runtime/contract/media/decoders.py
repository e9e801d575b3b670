"""Opens and loads pictures with an allow-list of Pillow's decoders, within bounds on memory.

`PIL.Image.open` tries every format that Pillow knows. One of them, PostScript, starts another
program, and many are so rare that their faults stay unknown. Here the first bytes choose among
`FORMATS`, and the decoders of other formats are not even imported.

Nothing is decoded before its size and the memory that its decoder takes are known to fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from PIL import Image, ImageFile, features

from lame_runtime.contract.media.decoding_limits import (
    Reserve,
    check_memory,
    check_size,
    decoding_bytes,
    webp_bytes,
)
from lame_runtime.contract.media.first_bytes import picture_format, webp_size
from lame_runtime.contract.media.transparency import (
    require_known_transparency,
    settle_transparency,
)
from lame_runtime.contract.rules import ImageRules
from lame_runtime.errors import InputError, first_line, shown
from lame_runtime.files.fork_lock import CALLERS_FILES

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
# pictures that a user opened may be an MPO, which is a JPEG with further JPEGs after it
_ALLOWED = frozenset({*FORMATS, "MPO"})
# how Pillow begins to say that it knows no such samples
_UNSUPPORTED = ("unknown pixel mode", "unknown raw mode", "unrecognized image mode", "unsupported")
_lock = CALLERS_FILES


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
        reason = shown(first_line(error))
        # only the system's own errors have a number
        if isinstance(error, OSError) and error.errno is not None:
            reason = shown(error.strerror or reason)
            raise InputError(
                f"{name}: the picture cannot be read ({reason}); copy the file and try again"
            ) from None
        if reason.lower().startswith(_UNSUPPORTED):
            raise InputError(
                f"{name}: pictures of this kind are not supported ({reason}); "
                "convert it to RGB with 8 bits"
            ) from None
        raise InputError(
            f"{name}: the picture cannot be decoded ({reason}); it may be truncated or damaged"
        ) from None


def open_header(
    file: IO[bytes], name: str, rules: ImageRules, reserve: Reserve | None = None
) -> Image.Image:
    """Reads a picture's header; nothing is decoded.

    Args:
        file: the picture; it must stay open until the pixels are loaded.
        name: how messages name it.
        rules: for `max_source_pixels`.
        reserve: called with the memory that decoding will take, before it is taken.

    Raises:
        InputError: not a picture of `FORMATS`, unreadable, damaged, or too large.
    """
    with translated_errors(name):
        prefix = file.read(32)
        file.seek(0)
    kind = picture_format(prefix)
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
    if kind == "WEBP" and (size := webp_size(prefix)):
        # the constructor of Pillow's decoder allocates two canvases of this size
        check_size(size, name, rules)
        check_memory(webp_bytes(size), size, name)
        if reserve:
            reserve(webp_bytes(size))
    metered = _MeteredFile(file, _HEADER_BYTES.get(kind, _MOST_HEADER_BYTES))
    with translated_errors(name):
        image = decoder(metered)
        # what may follow the header: samples of at most 64 bits, and more metadata
        most = 8 * image.width * image.height + _HEADER_BYTES["TIFF"]
        # once to look at the scans of a JPEG, once to decode
        metered.left = most
        needed = check_loadable(image, name, rules)
        metered.left = most
        if reserve:
            reserve(needed)
        return image


def check_loadable(image: ImageFile.ImageFile, name: str, rules: ImageRules) -> int:
    """Checks a picture whose header was read and whose pixels were not.

    Returns:
        The number of bytes that decoding takes.

    Raises:
        InputError: the picture is of another format or too large, its decoder would take too much
            memory, or it is no part of the animation in its file.
    """
    kind = image.format or "unknown"
    if kind not in _ALLOWED:
        raise InputError(
            f"{name}: pictures of the format {shown(kind)} are not read ({', '.join(FORMATS)} are);"
            " call its `load` first if you trust it"
        )
    check_size(image.size, name, rules)
    _require_shown(image, name)
    needed = decoding_bytes(image, name)
    check_memory(needed, image.size, name)
    return needed


def load_shared(image: Image.Image, name: str, rules: ImageRules) -> None:
    """Loads the pixels of a picture that a caller handed in, which other threads may also use.

    Pillow's pictures are read when they are first used, and two threads that do so take each
    other's bytes. One thread at a time therefore loads. It also reads the EXIF data, which Pillow
    caches in a way that another thread could see half-filled.

    Raises:
        InputError: the picture is of another format, too large or damaged, its file is closed, or
            the depth of its transparent color is unknown.
    """
    with _lock, translated_errors(name):
        closed = _closing(image)
        tiles = list(getattr(image, "tile", ()))
        is_lazy = isinstance(image, ImageFile.ImageFile) and not _is_loaded(image)
        try:
            if isinstance(image, ImageFile.ImageFile) and is_lazy:
                check_loadable(image, name, rules)
                settle_transparency(image, name)
            image.load()
        except InputError:
            raise
        except Exception:
            # Pillow forgets what was to be decoded even if decoding fails. Without it, the next
            # call would take a partly decoded picture for a whole one.
            if tiles and not image.tile:  # type: ignore[attr-defined]
                image.tile = tiles  # type: ignore[attr-defined]
            if closed:
                raise InputError(f"{name}: {closed}") from None
            raise
        # only to cache it; what is damaged counts as none
        with suppress(Exception):
            image.getexif()
        if not is_lazy:
            _require_shown(image, name)
            require_known_transparency(image, name)


def load_own(image: Image.Image, name: str) -> None:
    """Loads the pixels of a picture from `open_header`."""
    with translated_errors(name):
        settle_transparency(image, name)
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
        # not `jpeg_factory`, which looks for further pictures after the first
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


def _is_loaded(image: ImageFile.ImageFile) -> bool:
    try:
        return not image.tile and image.im is not None
    # how newer versions of Pillow say that there are no pixels
    except (AssertionError, ValueError):
        return False


def _closing(image: Image.Image) -> str:
    """Returns what to say of a picture that was closed, if it cannot be read; else nothing."""
    if getattr(image, "tile", None):
        file = getattr(image, "fp", None)
        if file is None or getattr(file, "closed", False):
            return (
                "its file was closed before the pixels were read; call the picture's `load` while "
                "the file is open, or give the path"
            )
        return ""
    try:
        _ = image.im.size
    # what stands in the place of the pixels then
    except ValueError:
        return "the picture was closed; embed it before its `close`, or give the path"
    # they are not there yet
    except Exception:
        return ""
    return ""


def _require_shown(image: Image.Image, name: str) -> None:
    """Refuses the still picture of an animated PNG that is no part of the animation: it is for
    programs that cannot show the animation, and a browser shows the animation's first frame.
    """
    if getattr(image, "default_image", False) and image.format == "PNG" and not image.tell():
        raise InputError(
            f"{name}: the first picture of this animated PNG is no part of the animation; "
            "save the frame to embed as a picture"
        )
