"""Writes files and folders that appear under their final name only when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lame_runtime.errors import StorageError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`, which replaces it if the block ends without an
    error.

    If `target` is a link, the file that it points to is replaced.

    Raises:
        StorageError: the target cannot be written (full, read-only, no such folder), or is not a
            regular file. An existing target stays unchanged.
    """
    temporary = None
    try:
        # a rename would replace the link itself, not the file that it points to
        target = target.resolve()
        if target.exists() and not target.is_file():
            raise StorageError(f"{target}: is not a regular file; choose another path")
        # in the same folder, because a rename is atomic only within one file system
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes the file private; give it the permissions that `open` would have
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def atomic_text(target: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `target`, completely or not at all; raises `StorageError`."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target`, which takes its name if the block ends without an
    error.

    Raises:
        StorageError: `target` already exists or cannot be written.
    """
    if target.exists():
        raise StorageError(f"{target}: already exists; remove it or choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as outer:
            # a folder inside, because the outer one is removed at the end in any case
            inner = Path(outer) / "data"
            inner.mkdir()
            yield inner
            inner.rename(target)
    except OSError as error:
        raise _cannot_write(target, error) from None


def _cannot_write(target: Path, error: OSError) -> StorageError:
    reason = error.strerror or error
    return StorageError(
        f"{target}: cannot be written ({reason}); choose another path or free some space"
    )


def _umask() -> int:
    # the mask can only be read by setting it
    mask = os.umask(0)
    os.umask(mask)
    return mask
