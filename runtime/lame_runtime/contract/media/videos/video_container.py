"""Containers of video files: which of them are read, and whether a file is whole.

Both are decided from the file's own structure before FFmpeg sees it. FFmpeg reads more than a
hundred formats, some of which open other files or sockets (playlists, scripts, session
descriptions), and it decodes what is left of a truncated file without any warning.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from typing import IO

from lame_runtime.contract.media.videos.video_boxes import ClaimError, mov_is_cut
from lame_runtime.contract.media.videos.video_broadcast import (
    program_stream_is_cut,
    transport_stream_is_cut,
    transport_stride,
)
from lame_runtime.contract.media.videos.video_elements import (
    avi_is_cut,
    gif_is_cut,
    matroska_is_cut,
)
from lame_runtime.errors import InputError

logger = logging.getLogger(__name__)

_SNIFFED_BYTES = 1024
_MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}


def container_format(file: IO[bytes], name: str) -> str:
    """Returns FFmpeg's name of the file's container, by its first bytes.

    Raises:
        InputError: the file is in none of the containers that are read.
    """
    file.seek(0)
    head = file.read(_SNIFFED_BYTES)
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    if transport_stride(head):
        return "mpegts"
    raise InputError(
        f"{name}: the video cannot be decoded: it is not MP4, MOV, Matroska, WebM, AVI, GIF, or "
        "MPEG program or transport stream; convert it to MP4"
    )


def require_whole(file: IO[bytes], container: str, name: str) -> None:
    """Checks that a file does not end in the middle of its content.

    If the file does not show whether fragments are missing at its end, a warning names it.

    Args:
        file: the file.
        container: what `container_format` returned.
        name: the file's name, for messages.

    Raises:
        InputError: the file was cut short, or its index claims more than it can hold.
    """
    size = file.seek(0, os.SEEK_END)
    checks: dict[str, Callable[[IO[bytes], int], bool | None]] = {
        "mov": mov_is_cut,
        "matroska": matroska_is_cut,
        "avi": avi_is_cut,
        "gif": gif_is_cut,
        "mpeg": program_stream_is_cut,
        "mpegts": transport_stream_is_cut,
    }
    try:
        is_cut = checks[container](file, size)
    except (ClaimError, struct.error) as error:
        raise InputError(
            f"{name}: the video cannot be decoded (its index is damaged: {error}); "
            "convert it to MP4 again"
        ) from None
    if is_cut:
        raise InputError(
            f"{name}: the video is truncated: it ends before its last frame; copy it again, "
            "or keep what is left: ffmpeg -i IN -c copy OUT"
        )
    if is_cut is None:
        logger.warning("%s: the video's file does not tell its end; it may be truncated", name)
