"""Files and folders that appear under their name only when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lame_runtime.errors import InputError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends without an error.

    Where `target` is a link, the file it points to is replaced.

    Raises:
        InputError: the file system refuses (full, read-only, no such folder), or something other than a
            regular file lies there; `target` is as it was.
    """
    temporary = None
    try:
        target = target.resolve()
        if target.exists() and not target.is_file():
            raise InputError(f"{target}: is not a regular file; choose another place")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); choose another place or free some space") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def atomic_text(target: Path, text: str) -> None:
    """Writes UTF-8 `text` to `target`, whole or not at all."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends without an error.

    Raises:
        InputError: `target` is there already, or the file system refuses.
    """
    if target.exists():
        raise InputError(f"{target}: already exists; remove it or choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as fresh:
            inside = Path(fresh) / "data"
            inside.mkdir()
            yield inside
            inside.rename(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); choose another place or free some space") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
