"""Opens what a shell hands over to the process by name, such as `<(…)` and `/dev/stdin`."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import IO

from lame_runtime.contract.media.videos.video_container import container_format
from lame_runtime.errors import InputError, StorageError, shown

HEAD_BYTES = 1024
"""Number of bytes that tell what a stream is."""
MAX_STREAM = 256 << 20
"""Largest picture or video in bytes that a shell hands over as a pipe."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""UTF-8 byte order mark, which editors on Windows write."""

_NAME = re.compile(r"/dev/(stdin|fd/(?P<own>\d+))|/proc/(?P<process>self|\d+)/fd/(?P<number>\d+)")
_PICTURE_BRANDS = (b"avi", b"hei", b"mif", b"msf")
"""Beginnings of the brands of pictures whose container is that of MP4: AVIF and HEIC."""


def is_handed_over(name: str) -> bool:
    """Returns whether a name is the system's for what a process has open."""
    return _NAME.fullmatch(name) is not None


def open_handed_over(name: str) -> IO[bytes]:
    """Opens what a shell hands over under a name.

    Raises:
        OSError: it is not open, or may not be opened again.
        StorageError: it is a device, is not open for reading, or is an output of this process.
    """
    _require_readable(name)
    handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not os.isatty(handle)):
        os.close(handle)
        raise StorageError(f"{shown(name)}: is a device; give a file or a pipe")
    return os.fdopen(handle, "rb")


def is_jsonl(head: bytes) -> bool:
    """Returns whether a stream begins like JSON strings or objects, as no picture or video does."""
    begun = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    # no picture or video begins with so many blank bytes either
    return begun[:1] in (b"{", b'"') or (bool(head) and not begun)


def is_video(head: bytes) -> bool:
    """Returns whether a stream begins like a video and not like a picture."""
    try:
        container = container_format(io.BytesIO(head), "")
    except InputError:
        return False
    is_picture = container == "gif" or (
        head[4:8] == b"ftyp" and head[8:12].startswith(_PICTURE_BRANDS)
    )
    return not is_picture


def _require_readable(name: str) -> None:
    match = _NAME.fullmatch(name)
    number = int((match and (match["own"] or match["number"])) or 0)
    process = match and match["process"]
    is_own = process in (None, "self", str(os.getpid()))
    if is_own and number in (1, 2):
        raise StorageError(f"{shown(name)}: is an output of this program; give a file or a pipe")
    if is_own:
        import fcntl  # deferred: Windows has neither the module nor these names

        access = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    else:
        # the link's permissions are those that the other process has opened it with
        readable, writable = (os.lstat(name).st_mode & bit for bit in (stat.S_IRUSR, stat.S_IWUSR))
        access = os.O_RDWR if readable and writable else os.O_RDONLY if readable else os.O_WRONLY
    is_pipe = stat.S_ISFIFO(Path(name).stat().st_mode)
    # a pipe of which this process holds the other end as well never comes to an end
    if access == os.O_WRONLY or (is_pipe and access != os.O_RDONLY):
        raise StorageError(f"{shown(name)}: is not open for reading; give a file or a pipe")
