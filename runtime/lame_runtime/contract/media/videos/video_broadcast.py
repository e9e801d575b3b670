"""MPEG program and transport streams: whether a file ends within a packet or a frame.

They are made to be cut anywhere and state no length. A file that ends within a packet has certainly
been cut. One that ends between two packets is sound, but its last packet shows whether its last
frame is likely complete: the rest of a packet after the end of a frame is padding.
"""

from __future__ import annotations

import os
from typing import IO

from lame_runtime.contract.media.videos.video_zeros import content_end

_SNIFFED_BYTES = 1024
_TAIL_BYTES = 1 << 19
_SECTOR_BYTES = 2048
_PACK, _END, _PADDING = 0xBA, 0xB9, 0xBE
_MOST_PACKET_BYTES = 6 + 0xFFFF
_NULL_PACKETS = 0x1FFF
_OWN_ZEROS = 3
"""Zeros at the end of the last packet before padding that may still be the packet's own."""


def transport_stride(head: bytes) -> int:
    """Returns the length of a transport stream's packets, or 0 if it is none.

    Args:
        head: the first kilobyte of the file.
    """
    for stride, offset in ((188, 0), (192, 4), (204, 0)):
        marks = head[offset::stride][:4]
        if len(marks) > 1 and set(marks) == {0x47}:
            return stride
    return 0


def transport_stream_is_cut(file: IO[bytes], size: int) -> bool:
    """Returns whether a transport stream ends within a packet, even if zeros follow."""
    stride, end = _last_transport_packet(file, size)
    if end <= size - 4:
        # padding, or what was never written
        file.seek(end - stride)
        packet = file.read(stride)
        zeros = stride - len(packet.rstrip(b"\x00"))
        start = 4 if stride == 192 else 0
        is_null = int.from_bytes(packet[start + 1 : start + 3], "big") & 0x1FFF == _NULL_PACKETS
        return zeros > _OWN_ZEROS and not is_null
    return size % stride != 0


def _last_transport_packet(file: IO[bytes], size: int) -> tuple[int, int]:
    """Returns the length of packets, and the end of the last one that is not all zeros."""
    file.seek(0)
    stride = transport_stride(file.read(_SNIFFED_BYTES))
    return stride, -(-content_end(file, size) // stride) * stride


def program_stream_is_cut(file: IO[bytes], size: int) -> bool:
    """Returns whether a program stream ends within a packet."""
    packs = _last_packs(file, size)
    return bool(packs) and packs[-1].is_cut


def ends_within_frame(file: IO[bytes], container: str, stream_id: int) -> bool:
    """Returns whether the last frame of a stream is likely incomplete.

    Args:
        file: the file.
        container: FFmpeg's name of the container; False for all but "mpeg" and "mpegts".
        stream_id: the stream's number in the file.
    """
    size = file.seek(0, os.SEEK_END)
    if container == "mpegts":
        return _last_packet_is_full(file, size, stream_id)
    if container == "mpeg":
        # Writers fill up the last pack of a file with padding, or make it shorter.
        *before, last = _last_packs(file, size) or [_Pack(b"")]
        if last.is_padded or last.is_end:
            return False
        is_like_others = any(pack.length == last.length for pack in before)
        return is_like_others or (last.length > 0 and last.length % _SECTOR_BYTES == 0)
    return False


def _last_packet_is_full(file: IO[bytes], size: int, stream_id: int) -> bool:
    stride, end = _last_transport_packet(file, size)
    start = 4 if stride == 192 else 0
    for position in range(min(end, size) - stride, max(-1, end - _TAIL_BYTES), -stride):
        file.seek(position + start)
        packet = file.read(12)
        if int.from_bytes(packet[1:3], "big") & 0x1FFF != stream_id or not packet[3] & 0x10:
            continue
        has_field, length, flags = packet[3] & 0x20, packet[4], packet[5]
        # with this flag, a field of seven bytes holds a clock and no padding
        return not has_field or (length == 7 and flags & 0x10 != 0)
    return False


class _Pack:
    """One pack of a program stream.

    Args:
        data: bytes of the file from the pack's header on.
    """

    def __init__(self, data: bytes) -> None:
        self.is_cut = self.is_padded = self.is_end = False
        position, code = 0, _PACK
        while code != _END:
            if code == _PACK:  # 12 bytes in MPEG-1, in MPEG-2 14 and padding
                is_newer = data[position + 4] >> 6 == 1 if len(data) > position + 4 else False
                stuffing = data[position + 13 : position + 14] if is_newer else b""
                position += 14 + ((stuffing or b"\x00")[0] & 7) if is_newer else 12
            else:
                self.is_padded = self.is_padded or code == _PADDING
                position += 6 + int.from_bytes(data[position + 4 : position + 6], "big")
            head = data[position : position + 6]
            if position > len(data) or (0 < len(head) < 6 and head[3:4] != bytes([_END])):
                self.is_cut = bool(data[position:].strip(b"\x00")) or position > len(data)
                break
            # padding, or what FFmpeg has to search in
            if head[:3] != b"\x00\x00\x01" or head[3] < _END or head[3] == _PACK:
                # zeros that begin within a packet were never written
                around = data[max(0, position - 16) : position + 6]
                self.is_cut = len(head) == 6 and not any(around)
                break
            code = head[3]
        self.is_end = code == _END
        self.length = position


def _last_packs(file: IO[bytes], size: int) -> list[_Pack]:
    """Returns the last two packs, which come every few kilobytes."""
    end = min(size, content_end(file, size) + _MOST_PACKET_BYTES)
    start = max(0, end - _TAIL_BYTES - _MOST_PACKET_BYTES)
    file.seek(start)
    tail = file.read(end - start)
    last = tail.rfind(b"\x00\x00\x01\xba")
    before = tail.rfind(b"\x00\x00\x01\xba", 0, max(last, 0))
    return [_Pack(tail[start:]) for start in (before, last) if start >= 0]
