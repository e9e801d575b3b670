"""Reads the first bytes of a picture: its format, and the size of a WebP."""

from __future__ import annotations

_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")


def picture_format(prefix: bytes) -> str | None:
    """Returns the format that a file's first 12 bytes announce."""
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if prefix.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP":
        return "WEBP"
    if prefix.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if prefix.startswith(_TIFF_MARKS):
        return "TIFF"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _AVIF_BRANDS:
        return "AVIF"
    if prefix[:1] == b"P" and prefix[1:2] in tuple(b"123456"[i : i + 1] for i in range(6)):
        return "PPM"
    return "BMP" if prefix.startswith(b"BM") else None


def webp_size(prefix: bytes) -> tuple[int, int] | None:
    """Returns the width and height in a WebP file's first 30 bytes, None if they hold none."""
    kind, body = prefix[12:16], prefix[20:]
    if kind == b"VP8 " and len(body) >= 10:
        return _little(body[6:8]) & 0x3FFF, _little(body[8:10]) & 0x3FFF
    if kind == b"VP8L" and len(body) >= 5:
        bits = _little(body[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(body) >= 10:
        return _little(body[4:7]) + 1, _little(body[7:10]) + 1
    return None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
