"""Reads `embeddings.npy`, as `numpy.save` writes it, without trusting what its header claims."""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lame_runtime.bundle.members import COPY_AGAIN, open_member
from lame_runtime.errors import BundleError, shown

MAX_ROWS, MAX_WIDTH = 1_000_000, 65_536
LENGTH_TOLERANCE = 1e-3
"""Largest deviation of a row's length from 1; that of vectors in FP32 is about 1e-7."""

# Matched as text: `numpy.load` evaluates the header, may unpickle, and allocates what it claims.
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,9}), ([0-9]{1,9})\), \} *\n"
)


def read_vectors(folder: Path, name: str, sha256: str | None = None) -> npt.NDArray[np.float32]:
    """Reads the unit vectors of a file of a bundle.

    Args:
        folder: the bundle.
        name: the file's name in it.
        sha256: hash that the bytes read must have; None does not check it.

    Returns:
        float32 (n, P), rows of unit length; n and P are at least 1.

    Raises:
        BundleError: the file cannot be read, holds anything else, or is shorter or longer than its
            header says.
    """
    path = folder / name

    def damaged(problem: str) -> BundleError:
        return BundleError(f"{shown(path)}: {problem}; {COPY_AGAIN}")

    with open_member(folder, name) as file:
        try:
            magic = file.read(10)
            # version 1.0, and the length of the header
            if len(magic) < 10 or magic[:8] != _MAGIC + b"\x01\x00":
                raise damaged("is not a .npy file of version 1.0")
            header = file.read(int.from_bytes(magic[8:], "little"))
            match = _HEADER.fullmatch(header.decode("latin-1"))
            if match is None:
                raise damaged("does not hold float32 values in two dimensions")
            shape = int(match[1]), int(match[2])
            if not (1 <= shape[0] <= MAX_ROWS and 1 <= shape[1] <= MAX_WIDTH):
                raise damaged(f"holds {shape[0]} × {shape[1]} values, which is out of range")
            # before anything is allocated
            expected, left = 4 * math.prod(shape), os.fstat(file.fileno()).st_size - file.tell()
            if left != expected:
                raise damaged(f"has {left:,} bytes of values, its header says {expected:,}")
            data = file.read(expected)
        except OSError as error:
            raise damaged(f"cannot be read ({error.strerror})") from None
    if len(data) != expected:
        raise damaged("became shorter while it was read")
    if sha256 is not None and hashlib.sha256(magic + header + data).hexdigest() != sha256:
        raise damaged("differs from what was exported (wrong sha256)")
    vectors = np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(shape)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    # a comparison with NaN is false
    if not (np.abs(lengths - 1) <= LENGTH_TOLERANCE).all():
        raise damaged("holds rows that are not finite or not of unit length")
    return vectors
