"""What happens to a vector after the graph: truncation to a prefix, re-normalisation, fewer bits.

The words for precisions are those of Sentence Transformers. Its bits are ours; its int8 scales each dimension by a range of
its own, which weighs dimensions anew and wraps around outside the range. Here one symmetric range serves all
dimensions and what is outside is clipped, so that products of int8 vectors rank as those of the vectors they came from.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lame_runtime.errors import BackendError, InputError

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_LEVELS = 127


def quantize(vectors: npt.NDArray[np.float32], precision: Precision, largest: float) -> npt.NDArray[Any]:
    """The vectors in fewer bits.

    Args:
        vectors: float32 (n, P).
        precision: "int8" and "uint8" keep 8 bits of each value, "binary" and "ubinary" its sign.
        largest: absolute value that the largest integer stands for; larger ones are clipped.

    Returns:
        int8 or uint8 (n, P), for signs (n, ⌈P/8⌉): eight to a byte, the first in the highest bit, padded with zeros.
        uint8 is int8 + 128, and "binary" is "ubinary" - 128.
    """
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        packed: npt.NDArray[Any] = np.packbits(vectors > 0, axis=1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    levels: npt.NDArray[Any] = np.clip(np.rint(vectors * (_LEVELS / largest)), -_LEVELS, _LEVELS).astype(np.int16)
    return levels.astype(np.int8) if precision == "int8" else (levels + 128).astype(np.uint8)


def restore(quantized: npt.NDArray[Any], precision: Precision, dim: int) -> npt.NDArray[np.float32]:
    """Float32 (n, dim) whose products rank as the quantised vectors do: levels, or -1 and 1 (for which that is Hamming distance)."""
    if precision in ("binary", "ubinary"):
        packed = quantized if precision == "ubinary" else (quantized.astype(np.int16) + 128).astype(np.uint8)
        signs: npt.NDArray[np.float32] = 2 * np.unpackbits(packed, axis=1, count=dim).astype(np.float32) - 1
        return signs
    return quantized.astype(np.float32) - (128 if precision == "uint8" else 0)


def finish(vectors: npt.NDArray[np.float32], *, truncate_dim: int | None = None, normalize: bool = True) -> npt.NDArray[np.float32]:
    """Cuts each row to its first `truncate_dim` values and scales it to unit length.

    Args:
        vectors: float32 (n, P), as the encoder graph returns them.
        truncate_dim: how many leading values to keep (Matryoshka); None keeps all.
        normalize: scale the kept values to unit Euclidean length.

    Returns:
        float32 (n, truncate_dim or P).

    Raises:
        InputError: `truncate_dim` outside 1..P.
        BackendError: a value is not finite, or a row has no length to normalise.
    """
    width = vectors.shape[1]
    if truncate_dim is not None:
        if not 1 <= truncate_dim <= width:
            raise InputError(f"truncate_dim is {truncate_dim}, the vectors have {width} values: use 1 to {width}")
        vectors = vectors[:, :truncate_dim]
    if not np.isfinite(vectors).all():
        raise BackendError("the graph returned a value that is not finite; run `lame-runtime verify` on this device")
    if not normalize:
        return np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if (lengths < 1e-12).any():
        raise BackendError("the graph returned an all-zero vector; run `lame-runtime verify` on this device")
    unit: npt.NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return unit
