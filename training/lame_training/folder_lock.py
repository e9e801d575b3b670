"""Locks an output folder for as long as a process writes to it.

Two runs with one output folder would remove each other's files and mix their logs. The lock is
the kernel's (`flock`), so that it ends with the process, however that ends: a run that was killed
stops nobody.

A network file system may not support such locks, or may apply them on one machine only. If it does
not support them, the folder is written without a lock, which is logged.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lame_runtime.errors import StorageError, printable

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK_FILE = ".lame-lock"
"""Name of the file that is locked; it holds the process and the machine that hold the lock."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems that do not support locks."""


@contextmanager
def locked_folder(folder: Path, work: str = "run", argument: str = "output") -> Iterator[None]:
    """Holds the lock of an output folder; the folder is made if it does not exist.

    A folder that was made here and is still empty at the end is removed again.

    Args:
        folder: the folder.
        work: names what holds the lock in the message.
        argument: name of the caller's argument that selects the folder, for the message.

    Raises:
        StorageError: another process holds the lock, or the folder cannot be made.
    """
    with _held(folder, folder / LOCK_FILE, folder, work, argument):
        yield


@contextmanager
def reserved_folder(folder: Path, work: str, argument: str) -> Iterator[None]:
    """Holds the lock of a folder that is to appear when it is complete.

    The lock's file lies beside it. So a second process is refused before it has done the work.

    Args:
        folder: the folder, which need not exist.
        work: as in `locked_folder`.
        argument: as in `locked_folder`.

    Raises:
        StorageError: another process holds the lock, or the folder above cannot be written.
    """
    with _held(folder.parent, folder.parent / f".{folder.name}.lock", folder, work, argument):
        yield


@contextmanager
def _held(place: Path, file: Path, folder: Path, work: str, argument: str) -> Iterator[None]:
    """Holds the lock of a file in `place`; messages name `folder`."""
    made = _make(place, argument)
    handle = -1
    try:
        handle = _lock(file, folder, work, argument)
        yield
    finally:
        if handle >= 0:
            # removed while still locked: a process that locks it next checks that it is still there
            with suppress(OSError):
                file.unlink()
            os.close(handle)
        for path in made:
            # one that is not empty stays
            with suppress(OSError):
                path.rmdir()


def _make(folder: Path, argument: str) -> list[Path]:
    """Makes a folder; returns the folders that did not exist before, the innermost first."""
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"{folder}: cannot be made ({reason}); choose another `{argument}`"
        ) from None
    return missing


def _lock(path: Path, folder: Path, work: str, argument: str) -> int:
    """Locks a file; returns its handle, or -1 without locks."""
    if fcntl is None:
        return -1
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            handle = os.open(path, flags, 0o666)
        except (OSError, ValueError) as error:  # ValueError: a null character
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"{folder}: cannot be written ({reason}); choose another `{argument}`"
            ) from None
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EEXIST, f"{path.name} is not a regular file")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the file may have been removed by its former holder since it was opened
            if not _is_same(handle, path):
                os.close(handle)
                continue
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return handle
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                with suppress(OSError):
                    holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
                os.close(handle)
                raise StorageError(
                    f"{folder}: another {work} is writing to it"
                    f"{f' ({printable(holder)})' if holder else ''}; "
                    f"wait for it, or choose another `{argument}`"
                ) from None
            os.close(handle)
            if error.errno in _NO_LOCKS:
                logger.warning("%s: its file system has no locks; use it for one run only", folder)
                return -1
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror}); choose another `{argument}`"
            ) from None


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
