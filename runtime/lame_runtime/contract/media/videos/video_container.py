"""Containers of video files: which of them are read, and whether a file is whole.

Both are decided from the file's own structure before FFmpeg sees it. FFmpeg reads more than a
hundred formats, some of which open other files or sockets (playlists, scripts, session
descriptions), and it decodes what is left of a truncated file without any warning.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from typing import IO

from lame_runtime.contract.media.videos.video_broadcast import (
    program_stream_is_cut,
    transport_stream_is_cut,
    transport_stride,
)
from lame_runtime.errors import InputError

MAX_FRAMES = 2_000_000
"""Largest number of frames of a file: 18 hours at 30 frames per second. More are refused, because
FFmpeg keeps an index of them, which a file of a few bytes can declare."""
_TRACKS = 3
"""Tracks of that many frames that a file may have: video, sound, and one more."""
MAX_INDEX_BYTES = 128 << 20
"""Largest index of an MP4 or MOV file (the box `moov`) that is read."""
_SNIFFED_BYTES = 1024
_MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_PLAIN_BOXES = {b"mdat", b"free", b"skip", b"wide"}
"""Boxes of an MP4 file that FFmpeg does not look into."""
_MEDIA_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"sidx", b"styp"}
_OPEN_ELEMENTS = {0x18538067, 0x1F43B675}
"""Elements of a Matroska file whose length may be unknown: segment and cluster."""
_COUNTED_BOXES = re.compile(rb"stsz|stz2|stts|ctts|trun|stsd|stco|co64|cmov")
_SAMPLED_SOUND = {
    b"sowt", b"twos", b"raw ", b"NONE", b"in24", b"in32", b"fl32", b"fl64", b"lpcm", b"ulaw",
    b"alaw", b"ipcm", b"fpcm", b"ima4", b"MAC3", b"MAC6", b"QDM2", b"QDMC", b"Qclp", b"agsm",
}  # fmt: skip
"""Audio codecs of MP4 files whose tables count single samples, of which there are millions."""


def container_format(file: IO[bytes], name: str) -> str:
    """Returns FFmpeg's name of the file's container, by its first bytes.

    Raises:
        InputError: none of the containers that are read.
    """
    file.seek(0)
    head = file.read(_SNIFFED_BYTES)
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    if transport_stride(head):
        return "mpegts"
    raise InputError(
        f"{name}: the video cannot be decoded: it is not MP4, MOV, Matroska, WebM, AVI, GIF, or "
        "MPEG program or transport stream; convert it to MP4"
    )


def require_whole(file: IO[bytes], container: str, name: str) -> None:
    """Checks that a file does not end in the middle of its content.

    Args:
        file: the file.
        container: what `container_format` returned.
        name: the file's name, for messages.

    Raises:
        InputError: the file was cut short, or its index claims more than it can hold.
    """
    size = file.seek(0, os.SEEK_END)
    check = {
        "mov": _mov_is_cut,
        "matroska": _matroska_is_cut,
        "avi": _avi_is_cut,
        "gif": _gif_is_cut,
        "mpeg": program_stream_is_cut,
        "mpegts": transport_stream_is_cut,
    }[container]
    try:
        is_cut = check(file, size)
    except (_ClaimError, struct.error) as error:
        raise InputError(
            f"{name}: the video cannot be decoded (its index is damaged: {error}); "
            "convert it to MP4 again"
        ) from None
    if is_cut:
        raise InputError(
            f"{name}: the video is truncated: it ends before its last frame; copy it again, "
            "or keep what is left: ffmpeg -i IN -c copy OUT"
        )


class _ClaimError(ValueError):
    """An index claims more than its file can hold."""


def _mov_is_cut(file: IO[bytes], size: int) -> bool:
    """Walks the boxes of the top level; those that hold an index are checked, too."""
    position, claims, has_index = 0, _Claims(size), False
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        elif length == 0:  # up to the end of the file
            length = size - position
        if position + length > size and kind in _MEDIA_BOXES:
            return True
        if length < 8 or position + length > size:
            break  # behind the media, phones append what is no box
        if kind not in _PLAIN_BOXES:
            if length > MAX_INDEX_BYTES:
                raise _ClaimError(f"it has {length:,} bytes")
            file.seek(position)
            claims.check(file.read(length))
        has_index = has_index or kind == b"moov"
        position += length
    return not has_index or claims.last_chunk >= size


class _Claims:
    """Numbers of samples that the tables of an MP4 file claim.

    FFmpeg allocates an index entry per sample, and a table of 20 bytes can claim a billion. It
    reads a table wherever it stands, so tables are searched for instead of parsed.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.last_chunk = 0
        """Largest offset at which media is claimed to begin."""
        self._totals: Counter[bytes] = Counter()
        self._codec = b""

    def check(self, box: bytes) -> None:
        """Raises `_ClaimError` if a table in a box claims too much."""
        for match in _COUNTED_BOXES.finditer(box):
            kind, start = match[0], match.end() + 4  # behind version and flags
            fields = box[start : start + 12].ljust(12, b"\x00")
            first, second = struct.unpack(">2I", fields[:8])
            if kind == b"cmov":
                raise _ClaimError("it is compressed")
            if kind == b"stsd":
                self._codec = fields[8:12]
            elif kind == b"stsz":
                # one size for all samples, or 0 and a table of sizes
                self._require(kind, second, first * second)
            elif kind == b"stz2":
                self._require(kind, second)
            elif kind == b"trun":
                self._require(kind, first)
            elif kind in (b"stts", b"ctts"):
                entries = max(0, min(first, (len(box) - start - 4) // 8))
                counts = struct.unpack_from(f">{2 * entries}I", box, start + 4)[::2]
                self._require(kind, sum(counts))
            elif first and kind in (b"stco", b"co64"):
                code, width = (">I", 4) if kind == b"stco" else (">Q", 8)
                offset = start + 4 + (first - 1) * width
                if offset + width <= len(box):
                    (chunk,) = struct.unpack_from(code, box, offset)
                    self.last_chunk = max(self.last_chunk, chunk)

    def _require(self, kind: bytes, samples: int, claimed_bytes: int = 0) -> None:
        # two bytes per sample, since sound of 8 bits is rare
        if self._codec not in _SAMPLED_SOUND or samples * 2 > self.size:
            self._totals[kind] += samples
            if samples > MAX_FRAMES or self._totals[kind] > _TRACKS * MAX_FRAMES:
                raise _ClaimError(f"{samples:,} frames, the limit is {MAX_FRAMES:,}")
        if claimed_bytes > self.size:
            raise _ClaimError(f"{claimed_bytes:,} bytes of frames in {self.size:,}")


def _avi_is_cut(file: IO[bytes], size: int) -> bool:
    """Walks the RIFF chunks: one, or several in a large file (OpenDML)."""
    position = 0
    while position + 12 <= size:
        file.seek(position)
        mark, length = struct.unpack("<4sI", file.read(8))
        if mark != b"RIFF" or length in (0, 0xFFFFFFFF):
            return False  # written as a stream, whose writer never learned its length
        if position + 8 + length > size:
            return True
        position += 8 + length + length % 2
    return False


def _gif_is_cut(file: IO[bytes], size: int) -> bool:
    """Walks the blocks up to the closing one."""
    file.seek(10)
    position = 13 + _color_table(file.read(1))
    while position < size:
        file.seek(position)
        kind = file.read(1)
        if kind == b";":
            return False
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


def _matroska_is_cut(file: IO[bytes], size: int) -> bool:
    """Walks the elements.

    Segments and clusters of a recording may state no length. They are entered then, and all
    elements in them are walked.
    """
    position = 0
    while position < size:
        element, header, length = _element(file, position)
        if header == 0:
            # less than a header is left, or what is no element, which FFmpeg skips
            return size - position < 12
        if length is None and element not in _OPEN_ELEMENTS:
            return False
        position += header + (length or 0)
    return position > size


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
