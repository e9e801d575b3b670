"""Hands an open video file to FFmpeg under a neutral name, and bounds what FFmpeg reads."""

from __future__ import annotations

import os
from typing import IO

_REREAD_BYTES, _REREADS = 64 << 20, 32
"""A file may be read this many times, and these bytes more; a damaged index can ask forever."""


class BoundedFile:
    """Hands a file to FFmpeg under a name that means nothing, and ends endless reading."""

    name = "video"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _REREADS * file.seek(0, os.SEEK_END) + _REREAD_BYTES
        self.is_exhausted = False
        file.seek(0)

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, and none once too many were read."""
        self.is_exhausted = self.is_exhausted or self._left <= 0
        data = b"" if self.is_exhausted else self._file.read(size)
        self._left -= len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position, and returns it; FFmpeg expects errors as negative numbers."""
        whence &= 3  # FFmpeg adds a flag
        if whence == os.SEEK_SET and offset < 0:
            return -22
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -22

    def tell(self) -> int:
        """Returns the position."""
        return self._file.tell()
