"""Matroska, AVI and GIF files: whether one is whole."""

from __future__ import annotations

import struct
from typing import IO

from lame_runtime.contract.media.videos.video_zeros import are_zeros, began_before, skip_zeros

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_OPEN_ELEMENTS = {_SEGMENT, _CLUSTER}
"""Elements of a Matroska file whose length may be unknown."""
_OPEN_LENGTHS = {0, 0xFFFFFFFF}
"""Lengths of an AVI file whose writer never learned them."""


def matroska_is_cut(file: IO[bytes], size: int) -> bool:
    """Returns whether a Matroska file was cut short, by walking its elements.

    The walk enters segments, clusters that state no length (as in a recording), and the last
    cluster.
    """
    position, segment_end, last_cluster = 0, 0, 0
    while position < size:
        element, header, length = _element(file, position)
        if header == 0:
            if segment_end and position >= segment_end:
                break  # anything may follow the segment
            if are_zeros(file, position):
                return segment_end > 0 or began_before(file, position)
            # too little is left for a header; otherwise it is no element, and FFmpeg skips it
            return size - position < 12
        if length is None and element not in _OPEN_ELEMENTS:
            return False
        end = position + header + (length or 0)
        if end > size:
            # within a whole segment it is damage, for which FFmpeg searches on
            return position >= segment_end
        if element == _SEGMENT:
            segment_end = end if length else 0
        elif element == _CLUSTER and length and end in (segment_end, size):
            last_cluster = position + header
        position = position + header if element == _SEGMENT else end
    return last_cluster > 0 and _has_zeros(file, last_cluster, segment_end or size)


def _has_zeros(file: IO[bytes], position: int, end: int) -> bool:
    """Returns whether zeros stand where an element of a cluster should begin."""
    while position < end:
        _, header, length = _element(file, position)
        if header == 0 or length is None:
            return header == 0 and are_zeros(file, position)
        position += header + length
    return False


def _element(file: IO[bytes], position: int) -> tuple[int, int, int | None]:
    """Returns an element's id, the length of its header, and that of its content.

    The header is 0 if there is none, the content None if its length is not stated.
    """
    file.seek(position)
    head = file.read(12)
    start = _number_width(head[:1])
    width = _number_width(head[start : start + 1])
    if not 0 < start <= 4 or width == 0 or len(head) < start + width:
        return 0, 0, 0
    unknown = (1 << 7 * width) - 1
    length = int.from_bytes(head[start : start + width], "big") & unknown
    element = int.from_bytes(head[:start], "big")
    return element, start + width, None if length == unknown else length


def _number_width(first: bytes) -> int:
    """Returns the bytes of a number, whose leading zero bits count them; 0 if there is none."""
    return 9 - first[0].bit_length() if first and first[0] else 0


def avi_is_cut(file: IO[bytes], size: int) -> bool:
    """Returns whether an AVI file was cut short, by walking its RIFF chunks (several if OpenDML).

    If a length is not stated, the chunks inside are walked up to the end of the file.
    """
    position = 0
    while position + 12 <= size:
        mark, length = _chunk(file, position)
        if mark != b"RIFF":
            return False  # anything may follow the chunks
        is_open = length in _OPEN_LENGTHS
        end = size if is_open else position + 8 + length
        if end > size or _riff_is_cut(file, position + 12, end, is_open=is_open):
            return True
        position = end + end % 2
    return False


def _riff_is_cut(file: IO[bytes], position: int, end: int, *, is_open: bool) -> bool:
    frames = (0, 0)
    while position + 8 <= end:
        mark, length = _chunk(file, position)
        if not any(mark):
            # padding after the frames, or content that was never written
            return frames == (0, 0) or began_before(file, position)
        if not _is_mark(mark):
            return False  # FFmpeg searches for what is a chunk
        if mark == b"idx1":
            return is_open and position + 8 + length > end
        if mark == b"LIST" and _kind(file, position) == b"movi":
            frames = position + 12, position + 8 + length
            if length in _OPEN_LENGTHS:
                return _chunks_are_cut(file, position + 12, end, is_open=is_open)
        if position + 8 + length > end:
            return is_open
        position += 8 + length + length % 2
    # nothing follows the frames, so zeros at their end may be silence or missing content
    ends_in_zeros = frames != (0, 0) and began_before(file, frames[1] - 8)
    return ends_in_zeros and _chunks_are_cut(file, *frames, is_open=False)


def _chunks_are_cut(file: IO[bytes], position: int, end: int, *, is_open: bool) -> bool:
    """Returns whether the list of frames ends within one, or in zeros that begin within one."""
    while position + 8 <= end:
        mark, length = _chunk(file, position)
        if not any(mark):
            return began_before(file, position)
        if not _is_mark(mark) or mark == b"idx1":
            return False
        # a list of chunks that belong together is entered
        is_group = mark == b"LIST" and _kind(file, position) == b"rec "
        position += 12 if is_group else 8 + length + length % 2
    return is_open and position > end + 1


def _chunk(file: IO[bytes], position: int) -> tuple[bytes, int]:
    """Returns the mark of a RIFF chunk and the length of its content."""
    file.seek(position)
    mark, length = struct.unpack("<4sI", file.read(8))
    return mark, length


def _kind(file: IO[bytes], position: int) -> bytes:
    """Returns the kind of a list."""
    file.seek(position + 8)
    return file.read(4)


def _is_mark(mark: bytes) -> bool:
    return all(32 <= byte < 127 for byte in mark)


def gif_is_cut(file: IO[bytes], size: int) -> bool:
    """Returns whether a GIF file was cut short, by walking its blocks up to the closing one."""
    file.seek(10)
    position: int | None = 13 + _color_table(file.read(1))
    while position is not None and position < size:
        file.seek(position)
        kind = file.read(1)
        if kind == b";":
            return False
        if kind == b"\x00":
            # some writers put more of the empty blocks that close a list
            position = skip_zeros(file, position)
            continue
        if kind == b"!":
            position += 2
        elif kind == b",":
            file.seek(position + 9)
            position += 11 + _color_table(file.read(1))
        else:
            return False  # FFmpeg skips what it does not know
        # blocks of up to 255 bytes follow, the last of which is empty
        while length := _byte(file, position):
            position += 1 + length
        position += 1
    return True


def _color_table(flags: bytes) -> int:
    """Returns the bytes of a GIF's color table."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _byte(file: IO[bytes], position: int) -> int:
    file.seek(position)
    return (file.read(1) or b"\x00")[0]
