"""Opens the files of a bundle by their names in it, and nothing outside of it.

A manifest or a golden input of unknown origin may name any path. A name is therefore checked as
text, then the file that it leads to: it must be a regular file below the bundle's folder, even
through links. Links into the `blobs` folder of a model hub's cache are the exception: that is how
such a cache stores the files of a download.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import IO

from lame_runtime.errors import BundleError, first_line, shown
from lame_runtime.files.regular import open_regular

COPY_AGAIN = "copy or export the bundle again"
MAX_FILE_BYTES = 1 << 40
"""Largest file that is read, in bytes: a file with holes may claim any size."""
LONGEST_NAME, LONGEST_PART = 1000, 200
# Windows opens devices by these names, in any folder and with any suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.I)


def name_problem(name: str) -> str | None:
    """Returns why a text cannot name a file of a bundle; None if it can.

    A name is relative to the bundle, has `/` between its parts, and means the same file on every
    system.
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or ":" in name:
        return "is outside the bundle"
    if len(name) > LONGEST_NAME or any(len(part) > LONGEST_PART for part in parts):
        return "is too long for the name of a file"
    if not name.isprintable() or "\\" in name:
        return "holds a character that no file of a bundle has"
    if any(part in ("", ".") or part.endswith((" ", ".")) for part in parts):
        return "is not the name of a file"
    if any(_DEVICE.fullmatch(part) for part in parts):
        return "is the name of a device on some systems"
    return None


def open_member(folder: Path, name: str) -> IO[bytes]:
    """Opens a file of a bundle for reading.

    Args:
        folder: the bundle.
        name: the file's name in it.

    Raises:
        BundleError: there is no such file, it may not be read, is not a regular file, or lies
            outside the bundle.
    """
    path = folder / name
    if problem := name_problem(name):
        raise BundleError(f"{shown(folder)}: {shown(name)!r} {problem}; {COPY_AGAIN}")
    try:
        if not _is_below(path, folder):
            raise BundleError(
                f"{shown(path)}: is a link that leads out of the bundle; {COPY_AGAIN}"
            )
        return open_regular(path)
    except (OSError, RuntimeError) as error:
        # before Python 3.13, `resolve` raises a RuntimeError for links in a circle
        raise unreadable(path, error) from None


def read_member(folder: Path, name: str, most: int) -> bytes:
    """Returns the bytes of a file of a bundle, of which there may be at most `most`.

    Raises:
        BundleError: as `open_member`, or the file is larger.
    """
    path = folder / name
    with open_member(folder, name) as file:
        try:
            # one byte more than allowed shows a larger file without reading all of it
            data = file.read(most + 1)
        except OSError as error:
            raise unreadable(path, error) from None
    if len(data) > most:
        raise BundleError(f"{shown(path)}: is larger than {most:,} bytes; {COPY_AGAIN}")
    return data


def hash_member(folder: Path, name: str) -> str:
    """Returns the hex sha256 of a file of a bundle; raises `BundleError` as `open_member`."""
    path = folder / name
    with open_member(folder, name) as file:
        try:
            if (size := os.fstat(file.fileno()).st_size) > MAX_FILE_BYTES:
                raise BundleError(
                    f"{shown(path)}: has {size:,} bytes, too many to read; {COPY_AGAIN}"
                )
            return hash_stream(file)
        except OSError as error:
            raise unreadable(path, error) from None


def hash_stream(file: IO[bytes]) -> str:
    """Returns the hex sha256 of what is left of an open file, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def unreadable(path: Path, error: Exception) -> BundleError:
    """Returns the error for a file or folder that could not be read, in one line with a remedy."""
    if isinstance(error, FileNotFoundError):
        return BundleError(f"{shown(path)}: is missing; {COPY_AGAIN}")
    reason = getattr(error, "strerror", None) or first_line(error)
    if isinstance(error, PermissionError):
        return BundleError(
            f"{shown(path)}: may not be read ({reason}); "
            "give this account the right to read the bundle (chmod -R u+rX)"
        )
    return BundleError(f"{shown(path)}: cannot be read ({reason}); {COPY_AGAIN}")


def is_in_hub_cache(path: Path, folder: Path) -> bool:
    """Returns whether a path leads to a file of the model hub's cache that a bundle lies in."""
    root = folder.resolve()
    # MODEL/snapshots/REVISION/name links to MODEL/blobs/HASH
    is_snapshot = root.parent.name == "snapshots"
    return is_snapshot and path.resolve().parent == root.parent.parent / "blobs"


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path, with all links followed, belongs to a bundle."""
    below = path.resolve().is_relative_to(folder.resolve())
    return below or is_in_hub_cache(path, folder)
