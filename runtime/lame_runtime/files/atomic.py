"""Writes files and folders that appear under their final name only when they are complete.

Until then they have a hidden name beside the final one (`.NAME.` and random characters). Whatever
has this name is removed after every error and signal that a process can handle. A process that is
killed (`kill -9`, no memory left, no power) leaves it behind; it may be deleted whenever nothing is
being written there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lame_runtime.errors import StorageError, shown

_FULL = (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors that only writing can meet; a library that wraps one gives no number."""
_OPEN_FILE = re.compile(r"/dev/(std(in|out|err)|fd/[^/]+)|/proc/[^/]+(/task/[^/]+)?/fd/[^/]+")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`, which replaces it if the block ends without an
    error.

    If `target` is a link, the file that it points to is replaced.

    An `OSError` in the block counts as a write error if it names the temporary path or can have no
    other cause, such as a full disk. Any other passes through, because it concerns what the block
    reads. `writing` is for blocks that write only the target.

    Raises:
        StorageError: the target cannot be written (full, read-only, no such folder), or is not a
            regular file. An existing target stays unchanged.
    """
    temporary = None
    _require_name(target)
    try:
        with writing(target):
            require_replaceable(target)
            # a rename would replace the link itself, not the file that it points to; not `resolve`,
            # which raises a RuntimeError for a circle of links on older versions of Python
            target = Path(os.path.realpath(target))
            # in the same folder, because a rename is atomic only within one file system; named
            # before it is made, so that a signal in between leaves nothing
            temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}")
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with _errors_of_writing(target, temporary):
            yield temporary
        with writing(target):
            # private until now; give it the permissions that `open` would have
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Translates every `OSError` of a block that writes `target` and reads nothing.

    Raises:
        StorageError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(target, error) from None


def atomic_text(target: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `target`, completely or not at all; raises `StorageError`."""
    with atomic_path(target) as path, writing(target):
        path.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target`, which takes its name if the block ends without an
    error.

    Errors of the block are told apart as by `atomic_path`.

    Raises:
        StorageError: `target` already exists or cannot be written.
    """
    _require_name(target)
    with contextlib.ExitStack() as stack:
        with writing(target):
            require_new(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            outer = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
            # before the folder, so that it also sees errors of removing it
            stack.enter_context(_errors_of_writing(target, Path(outer.name)))
            # a folder inside, because the outer one is removed at the end in any case
            inner = Path(stack.enter_context(outer)) / "data"
            inner.mkdir()
        yield inner
        with writing(target):
            rename_new(inner, target)


def require_new(target: Path) -> None:
    """Raises `StorageError` if the name of a folder that is to be made is taken.

    Work that takes long calls it before it begins as well.
    """
    # Also a link that leads nowhere, whose name is taken. False without an error if the folder
    # above may not be searched, which whoever writes there reports.
    if os.path.lexists(target):
        raise StorageError(f"{shown(target)}: already exists; remove it or choose another folder")


def rename_new(folder: Path, target: Path) -> None:
    """Gives a complete folder its name.

    Raises:
        StorageError: the name was free when the work began, and is not any more.
        OSError: the file system refuses.
    """
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise StorageError(
                f"{shown(target)}: another process made it meanwhile; "
                "remove it or choose another folder"
            ) from None
        raise


def names_open_file(target: str | os.PathLike[str]) -> bool:
    """Returns whether a path is the system's name of a file that a process has open already."""
    return _OPEN_FILE.fullmatch(os.path.normpath(target)) is not None


def require_replaceable(target: Path) -> None:
    """Checks that a file of this name can be made or replaced.

    Raises:
        StorageError: the path is a folder, a pipe, a device, or the standard output.
        OSError: the path cannot be looked up.
    """
    with contextlib.suppress(FileNotFoundError):
        # follows links also to files without a name, such as a pipe behind /dev/stdout
        if names_open_file(target) or not stat.S_ISREG(target.stat().st_mode):
            raise StorageError(f"{shown(target)}: is not a regular file; choose another path")


def _require_name(target: Path) -> None:
    """Refuses a path that no file can have: with a null character or half a surrogate pair."""
    try:
        possible = b"\0" not in os.fsencode(target)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise StorageError(f"{shown(target)}: is not the name of a file; choose another path")


@contextmanager
def _errors_of_writing(target: Path, temporary: Path) -> Iterator[None]:
    """Translates the write errors of a block that may read other files as well.

    Raises:
        StorageError: an `OSError` names the temporary path or what is below it, or can only come
            from writing.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        if not isinstance(name, str | bytes | os.PathLike):
            is_of_writing = error.errno in _FULL
        else:
            path = Path(os.fsdecode(name))
            is_of_writing = path == temporary or temporary in path.parents
        if is_of_writing:
            raise _cannot_write(target, error) from None
        raise


def _cannot_write(target: Path, error: OSError) -> StorageError:
    reason = error.strerror or error
    return StorageError(
        f"{shown(target)}: cannot be written ({reason}); choose another path or free some space"
    )


def _umask() -> int:
    # the mask can only be read by setting it
    mask = os.umask(0)
    os.umask(mask)
    return mask
