"""Mutations of bytes: blind ones, and ones that know the parts of a format."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random

INTERESTING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)
_EXTRA_CHUNKS = (
    b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"gAMA", b"tRNS", b"PLTE", b"acTL", b"fcTL",
    b"fdAT", b"cHRM", b"sBIT", b"pHYs", b"IDAT",
)  # fmt: skip
HEADER = 160
"""Number of bytes at the beginning that hold most of a format's fields."""


def damaged(random: Random, data: bytes, other: bytes) -> bytes:
    """Returns bytes after one to four mutations.

    Args:
        random: decides.
        data: the file.
        other: another file, for splices.
    """
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        mutation = random.choice(MUTATIONS)
        data = mutation(random, data, other)
    # a mutation that doubles must not grow without end
    return data[: 1 << 20]


def _flip(random: Random, data: bytes, _: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _overwrite(random: Random, data: bytes, _: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 4, 16))):
        if changed:
            changed[random.randrange(len(changed))] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(changed)


def _truncate(random: Random, data: bytes, _: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _delete(random: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _duplicate(random: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:end] + data[start:end] * random.choice((1, 2, 20)) + data[end:]


def _insert(random: Random, data: bytes, _: bytes) -> bytes:
    start, _end = _span(random, data)
    return data[:start] + random.randbytes(random.choice((1, 4, 100))) + data[start:]


def _splice(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _other_magic(random: Random, data: bytes, other: bytes) -> bytes:
    length = random.choice((4, 8, 12, 32))
    return other[:length] + data[random.choice((0, length)) :]


def _field(random: Random, data: bytes, _: bytes) -> bytes:
    """Overwrites a number in the header."""
    width, kind = random.choice(((1, "B"), (2, "H"), (4, "I")))
    if len(data) < width:
        return data
    offset = random.randrange(min(HEADER, len(data) - width + 1))
    value = random.choice(INTERESTING) & (256**width - 1)
    number = struct.pack(random.choice("<>") + kind, value)
    return data[:offset] + number + data[offset + width :]


def _part(random: Random, data: bytes, _: bytes) -> bytes:
    """Drops, doubles, moves, empties or renames one of the format's parts."""
    parts = list(split(data))
    if len(parts) < 2:
        return _field(random, data, data)
    index = random.randrange(len(parts))
    action = random.randrange(5)
    if action == 0:
        del parts[index]
    elif action == 1:
        parts.insert(index, parts[index])
    elif action == 2:
        parts.insert(random.randrange(len(parts)), parts.pop(index))
    elif action == 3:
        parts[index] = parts[index][:8]
    else:
        parts[index] = parts[index][:4] + random.randbytes(4) + parts[index][8:]
    return b"".join(parts)


def _size_of_part(random: Random, data: bytes, _: bytes) -> bytes:
    """Overwrites the length of one of the format's parts."""
    parts = list(split(data))
    index = random.randrange(len(parts))
    value = random.choice((*INTERESTING, len(data)))
    parts[index] = struct.pack(random.choice("<>") + "I", value & 0xFFFFFFFF) + parts[index][4:]
    return b"".join(parts)


def _png_header(random: Random, data: bytes, _: bytes) -> bytes:
    """Changes a PNG's size, depth or kind of color, with a right checksum."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        return _field(random, data, data)
    fields = bytearray(data[16:29])
    if random.random() < 0.5:
        offset = random.choice((0, 4))
        fields[offset : offset + 4] = struct.pack(">I", random.choice((*INTERESTING, 30000, 9000)))
    else:
        fields[random.randrange(8, 13)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + fields))
    return data[:16] + bytes(fields) + checksum + data[33:]


def _png_extra(random: Random, data: bytes, _: bytes) -> bytes:
    """Inserts a chunk with a right checksum and wrong content behind a PNG's header."""
    if data[12:16] != b"IHDR":
        return _insert(random, data, data)
    kind = random.choice(_EXTRA_CHUNKS)
    content = random.choice((b"", random.randbytes(8), b"a\0\0" + zlib.compress(bytes(1 << 16))))
    chunk = struct.pack(">I", len(content)) + kind + content
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:]


def _numbers(random: Random, data: bytes, _: bytes) -> bytes:
    """Replaces a number written in digits, as in a PDF or a playlist."""
    digits = [index for index, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    if not digits:
        return _overwrite(random, data, data)
    start = random.choice(digits)
    end = start
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    number = random.choice((b"0", b"-1", b"9" * 10, b"9" * 400, b"1e308", b"nan", b"0.0000001"))
    return data[:start] + number + data[end:]


MUTATIONS: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    _flip, _flip, _overwrite, _truncate, _delete, _duplicate, _insert, _splice, _other_magic,
    _field, _field, _part, _size_of_part, _png_header, _png_extra, _numbers,
)  # fmt: skip


def split(data: bytes) -> Iterator[bytes]:
    """Yields the parts of a PNG, a RIFF or an ISO file; anything else in pieces of 64 bytes."""
    if data.startswith(b"\x89PNG"):
        yield data[:8]
        yield from _lengths(data, 8, ">", extra=12)
    elif data[:4] == b"RIFF":
        yield data[:12]
        yield from _lengths(data, 12, "<", extra=8, at=4)
    elif data[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        yield from _lengths(data, 0, ">", extra=0)
    else:
        for start in range(0, max(len(data), 1), 64):
            yield data[start : start + 64]


def _lengths(data: bytes, start: int, order: str, *, extra: int, at: int = 0) -> Iterator[bytes]:
    while start + 8 <= len(data):
        (length,) = struct.unpack_from(f"{order}I", data, start + at)
        size = max(8, length + extra)
        yield data[start : start + size]
        start += size
    if start < len(data):
        yield data[start:]


def with_metadata(data: bytes) -> bytes | None:
    """Returns the file with a comment that changes nothing that is shown; None if unknown."""
    if data.startswith(b"\x89PNG") and data[12:16] == b"IHDR":
        content = b"tEXtTitle\0\xfc\xe9\x1b[31m"
        chunk = struct.pack(">I", len(content) - 4) + content
        return data[:33] + chunk + struct.pack(">I", zlib.crc32(content)) + data[33:]
    if data.startswith(b"\xff\xd8"):
        return data[:2] + b"\xff\xfe\x00\x0aTitle\xfc\xe9\x1b" + data[2:]
    if data[4:8] == b"ftyp":
        return data + struct.pack(">I", 24) + b"free" + b"\xfc" * 16
    return None


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 2, 4, 16, 64, 1024)))
