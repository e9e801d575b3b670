"""Hands an open video file to FFmpeg under a neutral name, and bounds what FFmpeg reads."""

from __future__ import annotations

import os
from typing import IO

from lame_runtime.contract.media.videos.video_zeros import content_end

_REREAD_BYTES, _REREADS = 64 << 20, 32
"""Reads end after `_REREADS` times the file's size plus `_REREAD_BYTES`, because a damaged index
can make FFmpeg read forever."""


_MOST_ZEROS = 32 << 20
"""Bytes of zeros that FFmpeg may read in search of a packet. A read larger than its buffer is for a
packet that it has found."""
_BUFFER_BYTES = 1 << 16


class BoundedFile:
    """Hands a file to FFmpeg under a name that means nothing, and ends endless reading."""

    name = "video"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = self._end = file.seek(0, os.SEEK_END)
        self._left = _REREADS * self._size + _REREAD_BYTES
        self._zeros_left = _MOST_ZEROS
        self.is_exhausted = False
        file.seek(0)

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, and none once too many were read."""
        self.is_exhausted = self.is_exhausted or self._left <= 0 or self._zeros_left <= 0
        if self.is_exhausted or self._file.tell() >= self._end:
            return b""
        data = self._file.read(size)
        self._left -= len(data)
        if size > _BUFFER_BYTES or data.lstrip(b"\x00"):
            self._zeros_left = _MOST_ZEROS
        else:
            self._zeros_left -= len(data)
        if self._zeros_left <= 0:
            self._end_at_padding()
        return data

    def _end_at_padding(self) -> None:
        """Lets the file end here if there are zeros up to its end."""
        position = self._file.tell()
        if content_end(self._file, self._size) < position:
            self._end, self._zeros_left = position, _MOST_ZEROS
        self._file.seek(position)

    def note_packet(self) -> None:
        """Notes that FFmpeg found a packet, which resets the limit on zeros."""
        self._zeros_left = _MOST_ZEROS

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
