"""Arrays in files: written piece by piece, and memory-mapped without trusting their headers."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lame_runtime.errors import StorageError, shown
from lame_runtime.files.regular import open_regular

if TYPE_CHECKING:
    from typing_extensions import Self

_HEADER_BYTES = 128
_MAGIC = b"\x93NUMPY\x01\x00"
_COPY_AGAIN = "copy the index again, or make it again with `lame-runtime index`"


def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Returns the header of a `.npy` file of version 1.0, always of the same length."""
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    text = repr(described).encode("ascii")
    room = _HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


class ArrayWriter:
    """Writes an array whose length is not known before its end; use it as a context manager.

    Args:
        path: a `.npy` file to make.
        dtype: type of the elements, little-endian.
        width: elements of a row; None for an array of one dimension.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], width: int | None = None) -> None:
        self._dtype = dtype.newbyteorder("<")
        self._rest = () if width is None else (width,)
        self._rows = 0
        self._file: IO[bytes] = path.open("wb")
        # in place of the one with the number of rows, which has the same length
        self._file.write(header(self._dtype, (0, *self._rest)))

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Writes rows (m,) or (m, width) after those that are there."""
        block = np.ascontiguousarray(rows, dtype=self._dtype)
        self._file.write(block.data)
        self._rows += len(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            # after an error the folder goes away
            if error is None:
                self._file.seek(0)
                self._file.write(header(self._dtype, (self._rows, *self._rest)))


def map_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Returns the array in a file that an `ArrayWriter` wrote, memory-mapped for reading.

    Raises:
        StorageError: the file is missing, or of another type or size.
    """
    dtype = dtype.newbyteorder("<")
    start = header(dtype, shape)
    size = len(start) + dtype.itemsize * int(np.prod(shape))
    try:
        with open_regular(path) as file:
            # what the header should be is known, so there is nothing to parse
            if file.read(len(start)) != start or os.fstat(file.fileno()).st_size != size:
                raise _damaged(path)
            return np.memmap(file, dtype, "r", len(start), shape)
    except OSError as error:
        raise _unreadable(path, error) from None


def map_bytes(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """Returns the bytes of a file, memory-mapped for reading; raises `StorageError`."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size != size:
                raise _damaged(path)
            # nothing can be mapped of an empty file
            if not size:
                return np.empty(0, dtype=np.uint8)
            return np.memmap(file, np.uint8, "r", 0, (size,))
    except OSError as error:
        raise _unreadable(path, error) from None


def _damaged(path: Path) -> StorageError:
    return StorageError(f"{shown(path)}: is damaged: its type or size is wrong; {_COPY_AGAIN}")


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{shown(path)}: cannot be read ({error.strerror}); {_COPY_AGAIN}")
