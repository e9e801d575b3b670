"""Counts the bits in which packed signs differ: the first stage of a search in two.

Rows are uint64 words. XOR, population count and sum go over blocks that stay in the second level of
a core's cache, because the sum of all three would otherwise wait for memory twice more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

WORD_BITS = 64
_BLOCK_BYTES = 1 << 20
"""Bytes of the signs in a block; differences take as many, and counts an eighth as many."""
_LANE_WORDS = 512
"""Most words of a row whose counts fit in lanes of 16 bits."""

Words = npt.NDArray[np.uint64]


def pack_signs(vectors: npt.NDArray[Any]) -> Words:
    """Returns the signs of vectors as words: (n, ⌈dim / 64⌉); 0 counts as negative.

    The bytes of a row are those of `quantize(…, "ubinary")`, padded with zeros.

    Args:
        vectors: numbers (n, dim).
    """
    return words_of(np.packbits(np.asarray(vectors) > 0, axis=1))


def words_of(packed: npt.NDArray[np.uint8]) -> Words:
    """Returns packed signs, uint8 (n, bytes), as uint64 words, padded with zeros."""
    rows, width = packed.shape
    # both sides are padded alike, so the padding never differs
    padded = np.zeros((rows, 8 * -(-width // 8)), dtype=np.uint8)
    padded[:, :width] = packed
    return padded.view(np.uint64)


def block_rows(words: int) -> int:
    """Returns the number of rows of a block whose rows have that many words."""
    return max(1, _BLOCK_BYTES // (8 * words))


def distances(
    signs: Words, queries: Words, rows: npt.NDArray[np.int64] | None, start: int, end: int
) -> Iterator[tuple[npt.NDArray[np.int64], int, npt.NDArray[np.uint32]]]:
    """Yields the Hamming distances of blocks of rows to every query.

    Args:
        signs: (n, words), which may be memory-mapped.
        queries: (q, words).
        rows: numbers of the rows that count, ascending; None for all.
        start: first of them; with `end`, the part of one thread.
        end: end of that part.

    Yields:
        The numbers of the block's rows (m,), the number of the query, and the distances (m,), which
        the next block overwrites.
    """
    words = signs.shape[1]
    size = min(block_rows(words), max(1, end - start))
    # allocated once: fresh memory for every block would take as long as the counting
    differing = np.empty((size, words), dtype=np.uint64)
    # lanes are added eight words at a time
    is_wide = words % 8 == 0 and words <= _LANE_WORDS
    counts = np.empty((size, words), dtype=np.uint8)
    result = np.empty(size, dtype=np.uint32)
    for first in range(start, end, size):
        last = min(first + size, end)
        count = last - first
        if rows is None:
            numbers, block = np.arange(first, last), signs[first:last]
        else:
            numbers = rows[first:last]
            # a copy, which is smaller than the block that it is taken from
            block = signs[numbers]
        # all queries on one block, while it is in the cache
        for query, pattern in enumerate(queries):
            np.bitwise_xor(block, pattern, out=differing[:count])
            _count_bits(differing[:count], counts[:count])
            if is_wide:
                result[:count] = _lane_sums(counts[:count])
            else:
                np.sum(counts[:count], axis=1, dtype=np.uint32, out=result[:count])
            yield numbers, query, result[:count]


def _lane_sums(counts: npt.NDArray[np.uint8]) -> Words:
    """Returns the sum of each row of bytes; NumPy's own sum of short rows takes twice the time."""
    eights = counts.view(np.uint64)
    odd = np.uint64(0x00FF00FF00FF00FF)
    lanes = eights[:, 0] & odd
    lanes += (eights[:, 0] >> np.uint64(8)) & odd
    # by columns: NumPy's sum over an axis of two values takes as long as everything else
    for column in eights.T[1:]:
        lanes += column & odd
        lanes += (column >> np.uint64(8)) & odd
    # the product adds the four lanes in the highest one
    total: Words = (lanes * np.uint64(0x0001000100010001)) >> np.uint64(48)
    return total


def _count_bits_natively(words: Words, counts: npt.NDArray[np.uint8]) -> None:
    np.bitwise_count(words, out=counts)


def _count_bits_in_steps(words: Words, counts: npt.NDArray[np.uint8]) -> None:
    """Counts pairs, fours and bytes of bits in place, as before NumPy 2 (Hacker's Delight, 5-1)."""
    half = np.right_shift(words, np.uint64(1))
    half &= np.uint64(0x5555555555555555)
    words -= half
    np.right_shift(words, np.uint64(2), out=half)
    half &= np.uint64(0x3333333333333333)
    words &= np.uint64(0x3333333333333333)
    words += half
    np.right_shift(words, np.uint64(4), out=half)
    words += half
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    words *= np.uint64(0x0101010101010101)
    words >>= np.uint64(56)
    counts[:] = words


_count_bits = _count_bits_natively if hasattr(np, "bitwise_count") else _count_bits_in_steps
