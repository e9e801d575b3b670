"""Finishes the vectors that the encoder graph returns: prefix, unit length, fewer bits.

The names of the precisions are those of Sentence Transformers, and its bits equal ours. Its int8
scales every dimension by a range of its own, which changes the weight of dimensions, and wraps
around outside the range. Here one symmetric range serves all dimensions and values outside it are
clipped, so that products of int8 vectors rank as those of the vectors they came from.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lame_runtime.arguments import choice, described, integer, number
from lame_runtime.errors import BackendError, UsageError

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Not 128: int8 has no +128, and a symmetric range makes -x the exact negative of x.
_LEVELS = 127

_SMALLEST, _LARGEST = 1e-30, 1e30
_SHORTEST = 1e-12
"""Euclidean length below which a row counts as all zeros."""


def quantize(
    vectors: npt.NDArray[np.float32], precision: Precision, largest: float
) -> npt.NDArray[Any]:
    """Returns the vectors in fewer bits.

    Args:
        vectors: float32 (n, P).
        precision: "int8" and "uint8" keep 8 bits of each value, "binary" and "ubinary" its sign.
        largest: absolute value that the largest integer stands for; larger values are clipped.

    Returns:
        int8 or uint8 (n, P). Signs are (n, ⌈P/8⌉): eight to a byte, the first in the highest bit,
        padded with zeros. uint8 is int8 + 128, and "binary" is "ubinary" - 128.

    Raises:
        UsageError: no such precision, `largest` is not positive, or not two-dimensional numbers.
    """
    precision = choice("precision", precision, PRECISIONS)
    # vectors of 32 bits come back as the object that they are
    vectors = _two_dimensional("vectors", vectors)
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        # 0 counts as negative, as in Sentence Transformers.
        packed: npt.NDArray[Any] = np.packbits(vectors > 0, axis=1)
        # Through int16, because uint8 - 128 would wrap around.
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    largest = number("largest", largest, _SMALLEST, _LARGEST)
    levels: npt.NDArray[Any] = np.clip(
        np.rint(vectors * (_LEVELS / largest)), -_LEVELS, _LEVELS
    ).astype(np.int16)
    return levels.astype(np.int8) if precision == "int8" else (levels + 128).astype(np.uint8)


def restore(quantized: npt.NDArray[Any], precision: Precision, dim: int) -> npt.NDArray[np.float32]:
    """Returns float32 (n, dim) with products that rank as the quantized vectors do.

    The values are the integer levels, or -1 and 1 for signs, with which products rank as the
    Hamming distance does. They are not scaled back to unit length.

    Args:
        quantized: what `quantize` returned.
        precision: the precision it was called with.
        dim: P, which packed signs do not tell.

    Raises:
        UsageError: no such precision, or the array is not one that `quantize` returns for it.
    """
    precision = choice("precision", precision, PRECISIONS)
    quantized = _two_dimensional("quantized", quantized)
    width = quantized.shape[1]
    if precision in ("binary", "ubinary"):
        dim = integer("dim", dim, 8 * width - 7 if width else 0, 8 * width)
    expected = np.dtype({"binary": "int8", "ubinary": "uint8"}.get(precision, precision))
    if quantized.dtype != expected:
        raise UsageError(f"`quantized` is {quantized.dtype}: {precision} vectors are {expected}")
    if precision in ("binary", "ubinary"):
        packed = (
            quantized
            if precision == "ubinary"
            else (quantized.astype(np.int16) + 128).astype(np.uint8)
        )
        # `count` drops the zeros that pad the last byte.
        signs: npt.NDArray[np.float32] = (
            2 * np.unpackbits(packed, axis=1, count=dim).astype(np.float32) - 1
        )
        return signs
    return quantized.astype(np.float32) - (128 if precision == "uint8" else 0)


def require_floats(values: npt.NDArray[Any], shape: tuple[int | None, ...], source: str) -> None:
    """Checks the type and shape of what a graph returned.

    NumPy would spread a single row over a batch, and convert integers, without a word.

    Args:
        values: what the graph returned.
        shape: the shape that is expected; None fits any size.
        source: what computed the values, for the message.

    Raises:
        BackendError: the values are no float32 array of that shape.
    """
    fits = values.ndim == len(shape) and all(
        size == expected or expected is None
        for size, expected in zip(values.shape, shape, strict=True)
    )
    if values.dtype != np.float32 or not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise BackendError(
            f"the {source} returned {values.dtype} {values.shape}; expected float32 ({sizes}); "
            "copy or export the bundle again"
        )


def require_finite(
    values: npt.NDArray[np.float32], source: str = "the graph"
) -> npt.NDArray[np.float32]:
    """Returns `values` unchanged if all of them are finite.

    NaN compares as false with everything, so one in a search index would go unnoticed.

    Args:
        values: features or vectors, of any shape.
        source: what computed them, for the message.

    Raises:
        BackendError: a value is infinite or not a number.
    """
    if not np.isfinite(values).all():
        raise BackendError(
            f"{source} returned a value that is not finite; "
            "run `lame-runtime verify` on this device"
        )
    return values


def finish(
    vectors: npt.NDArray[np.float32], *, truncate_dim: int | None = None, normalize: bool = True
) -> npt.NDArray[np.float32]:
    """Cuts each row to its first `truncate_dim` values and scales it to unit length.

    Args:
        vectors: float32 (n, P), as the encoder graph returns them.
        truncate_dim: number of leading values to keep (Matryoshka, arXiv:2205.13147); None for all.
        normalize: scale the remaining values to unit Euclidean length.

    Returns:
        float32 (n, truncate_dim or P).

    Raises:
        UsageError: `truncate_dim` is outside 1..P.
        BackendError: a value is not finite, or a row has no length to normalize.
    """
    vectors = _two_dimensional("vectors", vectors)
    vectors = vectors[:, : kept_width(truncate_dim, vectors.shape[1])]
    # Before the norm, which would spread one NaN over its whole row.
    require_finite(vectors)
    if not normalize:
        return np.ascontiguousarray(vectors, dtype=np.float32)
    # In single precision a sum of thousands of squares would lose digits.
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if (lengths < _SHORTEST).any():
        raise BackendError(
            "the graph returned an all-zero vector; run `lame-runtime verify` on this device"
        )
    unit: npt.NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return unit


def kept_width(truncate_dim: int | None, width: int) -> int:
    """Returns the number of leading values to keep of vectors with `width` values.

    Raises:
        UsageError: `truncate_dim` is not a whole number from 1 to `width`.
    """
    if truncate_dim is None:
        return width
    return integer("truncate_dim", truncate_dim, 1, width, ", the length of the vectors")


def cosines(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Returns the cosine of every row with every row: float32 (n, m).

    Args:
        first: numbers, (n, dim) or (dim,).
        second: numbers, (m, dim) or (dim,).

    Raises:
        UsageError: the vectors have different lengths, or are not finite numbers.
    """
    rows, columns = unit_rows(first, "embeddings1"), unit_rows(second, "embeddings2")
    if rows.shape[1] != columns.shape[1]:
        raise UsageError(
            f"`embeddings1` has vectors of {rows.shape[1]} values and `embeddings2` of "
            f"{columns.shape[1]}: embed both with the same bundle and `truncate_dim`"
        )
    return np.asarray(rows @ columns.T, dtype=np.float32)


def unit_rows(vectors: npt.ArrayLike, name: str = "vectors") -> npt.NDArray[np.float32]:
    """Returns rows of unit length, float32 (n, dim); a row of zeros stays zero.

    Args:
        vectors: numbers, (n, dim) or (dim,).
        name: the argument, for messages.

    Raises:
        UsageError: not numbers, of another shape, or with a value that is not finite.
    """
    rows = np.atleast_2d(_two_dimensional(name, vectors, one_row=True))
    with np.errstate(over="ignore"):
        # int8 and uint8 vectors would overflow in their own type
        rows = np.asarray(rows, dtype=np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise UsageError(f"`{name}` holds a value that is not finite, or too large for float32")
    return np.asarray(rows / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def _two_dimensional(name: str, vectors: Any, *, one_row: bool = False) -> npt.NDArray[Any]:
    """Returns an array of real numbers with two dimensions, or one if `one_row` allows it."""
    try:
        array = np.asarray(vectors)
    except Exception:  # ragged lists, and whatever a user's class raises
        raise UsageError(f"`{name}` is {described(vectors)}: give an array of numbers") from None
    # neither bools nor texts, which NumPy would convert to numbers
    if array.dtype.kind not in "fiu" or array.ndim not in ((1, 2) if one_row else (2,)):
        shape = " × ".join(map(str, array.shape)) or "one value"
        raise UsageError(
            f"`{name}` is {shape} of type {array.dtype}: give numbers of shape (n, dim)"
        )
    return array
