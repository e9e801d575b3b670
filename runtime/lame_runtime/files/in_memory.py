"""Pictures and other files that a caller handed in as objects: buffers, open files and arrays."""

from __future__ import annotations

import io
import os
import stat
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_runtime.errors import InputError, shown
from lame_runtime.files.fork_lock import CALLERS_FILES

MAX_STREAM_BYTES = 256_000_000
"""Most bytes that are read from an open file; larger files are given by their path."""


def array_picture(pixels: npt.NDArray[Any]) -> Image.Image:
    """Returns an array as a picture.

    Args:
        pixels: uint8 (height, width, 3), RGB.

    Raises:
        InputError: the array has another type or shape.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InputError(
            f"the picture is an array of {shown(pixels.dtype)} {shown(pixels.shape)}; arrays must "
            "be uint8 (height, width, 3); otherwise give a path, bytes or a PIL picture"
        )
    height, width = pixels.shape[:2]
    # Pillow takes no empty array, but what reads pictures refuses an empty picture by name
    return (
        Image.fromarray(np.ascontiguousarray(pixels))
        if height * width
        else Image.new("RGB", (width, height))
    )


def is_binary(item: object) -> bool:
    """Returns whether an object holds the bytes of a file: a buffer, or a file in binary mode."""
    if isinstance(item, bytes | bytearray | memoryview | io.BufferedIOBase | io.RawIOBase):
        return True
    # files of other libraries and of `tempfile`; only files in text mode have an encoding
    return (
        callable(getattr(item, "read", None))
        and callable(getattr(item, "seek", None))
        and not hasattr(item, "encoding")
    )


def as_bytes(item: Any) -> bytes:
    """Returns the bytes of a buffer, or all bytes of an open file, whose position is left alone.

    Raises:
        InputError: the file is closed, cannot be read from its beginning (a pipe), is a device, or
            is too large.
    """
    if isinstance(item, bytes):
        return item
    try:
        if isinstance(item, bytearray | memoryview):
            return bytes(item)
        if isinstance(item, io.BytesIO):
            return item.getvalue()
        with CALLERS_FILES:
            return _read(item)
    except (InputError, MemoryError):
        raise
    # a closed file, a released buffer, or whatever another library raises
    except Exception as error:
        raise InputError(
            f"the open file that was given cannot be read ({type(error).__name__}); "
            "give its path or its bytes"
        ) from None


def _read(file: Any) -> bytes:
    _require_file(file)
    position = file.tell()
    file.seek(0)
    try:
        data = file.read(MAX_STREAM_BYTES + 1)
    finally:
        file.seek(position)
    if not isinstance(data, bytes | bytearray):
        raise InputError("the open file that was given returns no bytes; open it in binary mode")
    if len(data) > MAX_STREAM_BYTES:
        raise InputError(
            f"the open file that was given has more than {MAX_STREAM_BYTES:,} bytes; give its path"
        )
    return bytes(data)


def _require_file(file: Any) -> None:
    """Refuses pipes and devices, which may be endless or never answer."""
    try:
        mode = os.fstat(file.fileno()).st_mode
    # in memory or of another library; files of `zipfile` raise the second
    except (AttributeError, OSError):
        mode = stat.S_IFREG
    # some files of `tempfile` have no `seekable` before Python 3.11
    if not stat.S_ISREG(mode) or not getattr(file, "seekable", lambda: True)():
        raise InputError(
            "the open file that was given is not a regular file; read it and give its bytes"
        )
