"""MP4 and MOV files: whether one is whole, and what its index claims."""

from __future__ import annotations

import re
import struct
from collections import Counter
from typing import IO

from lame_runtime.contract.media.videos.video_zeros import began_before

MAX_FRAMES = 2_000_000
"""Largest number of frames of a file: 18 hours at 30 frames per second. More are refused, because
FFmpeg keeps an index of them, which a file of a few bytes can declare."""
_TRACKS = 3
"""Tracks of that many frames that a file may have: video, sound, and one more."""
MAX_INDEX_BYTES = 128 << 20
"""Largest index of an MP4 or MOV file (the box `moov`) that is read."""
_PLAIN_BOXES = {b"mdat", b"free", b"skip", b"wide"}
"""Boxes of an MP4 file that FFmpeg does not look into."""
_MEDIA_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"sidx", b"styp"}
_COUNTED_BOXES = re.compile(rb"stsz|stz2|stts|ctts|trun|stsd|stco|co64|cmov")
_TIMED_BOXES = re.compile(rb"mvhd|mehd|tkhd|mdhd|trex|tfhd|tfdt|trun")
_MISSING_SECONDS, _ROUNDING_SECONDS = 0.5, 0.01
"""Seconds by which a fragmented file falls short of its header's duration: if more than the first,
fragments are missing; if less than the second, none are."""
_SAMPLED_SOUND = {
    b"sowt", b"twos", b"raw ", b"NONE", b"in24", b"in32", b"fl32", b"fl64", b"lpcm", b"ulaw",
    b"alaw", b"ipcm", b"fpcm", b"ima4", b"MAC3", b"MAC6", b"QDM2", b"QDMC", b"Qclp", b"agsm",
}  # fmt: skip
"""Audio codecs of MP4 files whose tables count single samples, of which there are millions."""


class ClaimError(ValueError):
    """An index claims more than its file can hold."""


def mov_is_cut(file: IO[bytes], size: int) -> bool | None:
    """Returns whether a file was cut short; None if nothing in it shows this.

    Walks the top-level boxes and checks those that hold an index. A fragmented file is a series of
    boxes with no marked end, unless its writer added an index or a duration.

    Raises:
        ClaimError: an index claims more than the file can hold.
    """
    position, claims, fragments = 0, _Claims(size), _Fragments(size)
    has_index = is_broken_off = False
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        elif length == 0 and any(kind):  # up to the end of the file
            length = size - position
        if position + length > size and kind in _MEDIA_BOXES:
            return True
        if length < 8 or position + length > size:
            # phones append data that is not a box after the media
            is_broken_off = began_before(file, position)
            break
        if kind not in _PLAIN_BOXES:
            if length > MAX_INDEX_BYTES:
                raise ClaimError(f"it has {length:,} bytes")
            file.seek(position)
            box = file.read(length)
            claims.check(box)
            fragments.add(kind, box, position)
        has_index = has_index or kind == b"moov"
        position += length
    if not has_index or claims.last_chunk >= size:
        return True
    if size - position < 8:
        file.seek(position)
        is_broken_off = any(file.read())
    return fragments.are_cut(is_broken_off=is_broken_off)


class _Fragments:
    """Collects the evidence on whether a fragmented file is whole.

    Args:
        size: length of the file.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._are_used = self._has_end = False
        self._last_start = self._last_reference = 0
        self._ticks: dict[int, int] = {}
        """Ticks per second of each track; track 0 is the whole film."""
        self._durations: dict[int, int] = {}
        """For each track, ticks of a sample that states none."""
        self._ends: Counter[int] = Counter()
        self._stated = 0
        self._track = self._duration = 0

    def add(self, kind: bytes, box: bytes, position: int) -> None:
        """Adds a top-level box."""
        if kind == b"mfra":  # an index that is the last box
            self._has_end = True
        elif kind == b"sidx":
            self._add_references(box, position)
        elif kind == b"moof" or (kind == b"moov" and b"mvex" in box):
            self._are_used = True
            self._last_start = position
            for match in _TIMED_BOXES.finditer(box):
                self._add_times(match[0], box[match.end() :])

    def are_cut(self, *, is_broken_off: bool) -> bool | None:
        """Returns whether fragments are missing; None if nothing shows this.

        Args:
            is_broken_off: the last fragment is followed by the beginning of a box, or it ends in
                zeros that go on after it.
        """
        if self._last_reference > self._size:
            return True
        if not self._are_used or self._has_end:
            return False
        end = max(
            (self._ends[track] / self._ticks.get(track, 1) for track in self._ends), default=0
        )
        missing = self._stated / self._ticks.get(0, 1) - end
        if is_broken_off or (self._stated and missing > _MISSING_SECONDS):
            return True
        is_indexed = self._last_reference > self._last_start
        return False if is_indexed or (self._stated and missing < _ROUNDING_SECONDS) else None

    def _add_references(self, box: bytes, position: int) -> None:
        """Adds an index of segments, which states how many bytes each of them has."""
        start = 32 if box[8:9] == b"\x01" else 24
        first, count = struct.unpack(">I2xH", box[start : start + 8].ljust(8, b"\x00"))
        table = box[start + 8 : start + 8 + 12 * count]
        references = struct.unpack(f">{len(table) // 12 * 3}I", table[: len(table) // 12 * 12])
        sizes = [reference & 0x7FFFFFFF for reference in references[::3]]
        end = position + len(box) + first + sum(sizes)
        # an index of a single segment may stand before each of many
        if len(sizes) > 1 or end > self._size:
            self._last_reference = max(self._last_reference, end)

    def _add_times(self, kind: bytes, box: bytes) -> None:
        """Adds a box that states a time, from its version and flags on."""
        if len(box) < 8:
            return
        is_long, flags = box[0] == 1, int.from_bytes(box[1:4], "big")
        fields = struct.unpack(f">{min(len(box) // 4, 9)}I", box[: min(len(box) // 4, 9) * 4])[1:]
        fields += (0,) * 8
        if kind == b"mvhd":
            self._ticks[0] = fields[4 if is_long else 2] or 1
        elif kind == b"mehd":
            self._stated = (fields[0] << 32) + fields[1] if is_long else fields[0]
        elif kind == b"tkhd":
            self._track = fields[4 if is_long else 2]
        elif kind == b"mdhd":
            self._ticks[self._track] = fields[4 if is_long else 2] or 1
        elif kind == b"trex":
            self._durations[fields[0]] = fields[2]
        elif kind == b"tfhd":
            self._track = fields[0]
            offset = 1 + 2 * (flags & 1) + (flags >> 1 & 1)
            self._duration = fields[offset] if flags & 8 else self._durations.get(self._track, 0)
        elif kind == b"tfdt":
            self._ends[self._track] = (fields[0] << 32) + fields[1] if is_long else fields[0]
        else:
            self._ends[self._track] += self._run_duration(flags, box)

    def _run_duration(self, flags: int, box: bytes) -> int:
        """Returns the ticks that the samples of a box `trun` take."""
        count = int.from_bytes(box[4:8], "big")
        if not flags & 0x100:
            return count * self._duration
        start = 8 + 4 * (flags & 1) + 4 * (flags >> 2 & 1)
        width = sum(flags >> bit & 1 for bit in (8, 9, 10, 11))
        count = min(count, (len(box) - start) // (4 * width))
        words = struct.unpack_from(f">{max(0, count) * width}I", box, start)
        return sum(words[::width])


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
        """Raises `ClaimError` if a table in a box claims too much."""
        for match in _COUNTED_BOXES.finditer(box):
            kind, start = match[0], match.end() + 4  # after version and flags
            fields = box[start : start + 12].ljust(12, b"\x00")
            first, second = struct.unpack(">2I", fields[:8])
            if kind == b"cmov":
                raise ClaimError("it is compressed")
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
                raise ClaimError(f"{samples:,} frames, the limit is {MAX_FRAMES:,}")
        if claimed_bytes > self.size:
            raise ClaimError(f"{claimed_bytes:,} bytes of frames in {self.size:,}")
