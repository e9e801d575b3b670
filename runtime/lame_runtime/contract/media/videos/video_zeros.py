"""Zeros at the end of a file: padding after its content, or content that was never written.

Programs that download into a file of full length leave zeros where they were interrupted. Padding
begins where an element of the file ends; content that is missing begins within one.
"""

from __future__ import annotations

from typing import IO

_BLOCK_BYTES = 4096
_BEFORE_BYTES, _AFTER_BYTES = 16, 8
_MOST_SKIPPED_BYTES = 1 << 20


def content_end(file: IO[bytes], size: int) -> int:
    """Returns the position after the last byte that is not zero.

    Found by halving, so that zeros of any length take no time. A file with such blocks in the
    middle, too, may be taken to end at one of them.
    """
    low, high = 0, -(-size // _BLOCK_BYTES)
    if high and not _stripped(file, high - 1):
        # block `low` holds something or is the first, all from `high` on are zeros
        high -= 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _stripped(file, middle) else (low, middle)
    else:
        low = max(0, high - 1)
    return low * _BLOCK_BYTES + len(_stripped(file, low))


def _stripped(file: IO[bytes], block: int) -> bytes:
    file.seek(block * _BLOCK_BYTES)
    return file.read(_BLOCK_BYTES).rstrip(b"\x00")


def are_zeros(file: IO[bytes], position: int) -> bool:
    """Returns whether zeros, or nothing, stand where an element of the file should begin."""
    file.seek(position)
    return not any(file.read(_AFTER_BYTES))


def began_before(file: IO[bytes], position: int) -> bool:
    """Returns whether zeros at `position` begin within the element before it."""
    start = max(0, position - _BEFORE_BYTES)
    file.seek(start)
    return not any(file.read(position - start + _AFTER_BYTES))


def skip_zeros(file: IO[bytes], position: int) -> int | None:
    """Returns the position of the next byte that is not zero; None if none is near."""
    file.seek(position)
    data = file.read(_MOST_SKIPPED_BYTES)
    rest = data.lstrip(b"\x00")
    return position + len(data) - len(rest) if rest else None
