"""Opens regular files only.

`open` waits forever for a named pipe that nobody writes to, reads a device without end, and may
start what the device does. A name that comes from a user, a bundle or a data set is therefore
opened here. Everything that is refused raises an `OSError` with a reason in words, so that a caller
translates it like any other failure to read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFIFO: "is a pipe, not a regular file",
    stat.S_IFSOCK: "is a socket, not a regular file",
    stat.S_IFCHR: "is a device, not a regular file",
    stat.S_IFBLK: "is a device, not a regular file",
}


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a regular file for reading; links are followed.

    Raises:
        FileNotFoundError, PermissionError: as `open`.
        IsADirectoryError: the path is a folder.
        OSError: the path is a pipe, a socket or a device, or is not a path (a null character, a
            lone surrogate); `strerror` is the reason in words.
    """
    name = os.fspath(path)
    try:
        # before opening, because opening a device may already have an effect
        _require_regular(Path(name).stat(), name)
        # The file object owns the descriptor from the start. If the descriptor were opened first, a
        # signal right after that would close it twice, and the second error would hide the signal.
        return open(name, "rb", opener=_opened)
    except (ValueError, TypeError):
        raise OSError(errno.EINVAL, "is not the name of a file", name) from None


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Returns the bytes of a regular file.

    Args:
        path: the file.
        most: largest size in bytes; a larger file is refused before it is read.

    Raises:
        OSError: as `open_regular`, or the file is larger than `most`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # one byte more than allowed, because files of /proc have a size of 0 and a file may grow
        data = file.read(most + 1) if size <= most else b""
    if size > most or len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most:,} bytes", os.fspath(path))
    return data


def _opened(name: str, flags: int) -> int:
    # a pipe that takes the file's place after the first check must not block either
    handle = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _require_regular(os.fstat(handle), name)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _require_regular(status: os.stat_result, name: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", name)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, _KINDS.get(kind, "is not a regular file"), name)
