"""What happens to a vector after the graph: truncation to a prefix and re-normalisation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lame_runtime.errors import BackendError, InputError


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
