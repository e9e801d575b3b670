"""Formats that nobody expects where a picture or a video is read, and texts that name files."""

from __future__ import annotations

import contextlib
import io
from functools import cache

from fuzz.media.pictures import Sample, pattern

_OTHERS = ("EPS", "PCX", "SGI", "TGA", "ICO", "ICNS", "DDS", "BLP", "JPEG2000", "MSP", "IM",
           "SPIDER", "XBM", "PALM", "PDF", "QOI")  # fmt: skip
_TEXTS = {
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    b"({elsewhere}/secret.txt) run\n",
    "postscript loop": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="{elsewhere}/secret.png"/></svg>',
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:{elsewhere}/secret.png\n"
    b"#EXT-X-ENDLIST\n",
    "m3u8 url": b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "ffconcat": b"ffconcat version 1.0\nfile '{elsewhere}/secret.png'\nduration 1\n",
    "concat safe": b"ffconcat version 1.0\nfile secret.png\noption safe 0\n",
    "mpd": b'<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet>'
    b'<Representation id="0"><BaseURL>file:{elsewhere}/secret.png</BaseURL></Representation>'
    b"</AdaptationSet></Period></MPD>",
    "image list": b"{elsewhere}/secret.png\n",
    "xbm": b"#define a_width 9\n#define a_height 9\nstatic char a_bits[] = {0x00};\n",
    "mtv": b"MTV 100000 100000\n",
    "xpm": b'/* XPM */\nstatic char *a[] = {"9 9 1 1", "a c #fff", "aaaaaaaaa"};',
    "fits": b"SIMPLE  =                    T / x" + b" " * 2846,
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "h5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "zip": b"PK\x03\x04" + bytes(40),
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "elf": b"\x7fELF" + bytes(60),
    "html": b"<!doctype html><img src=//127.0.0.1/a.png>",
    "shell": b"#!/bin/sh\ntouch {elsewhere}/made\n",
    "subtitle": b"1\n00:00:00,000 --> 00:00:01,000\nHello\n",
    "wave": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0"
    b"\x10\0data\0\0\0\0",
    "y4m": b"YUV4MPEG2 W99999 H99999 F25:1 Ip A1:1 C420\nFRAME\n",
    "empty": b"",
    "zeros": bytes(64),
}  # fmt: skip


@cache
def foreign() -> tuple[Sample, ...]:
    """Returns the samples."""
    samples = [Sample(name, ".png", data) for name, data in _TEXTS.items()]
    for kind in _OTHERS:
        buffer = io.BytesIO()
        # this Pillow may lack one, and some take another mode
        for mode in ("RGB", "L", "1", "P", "F"):
            with contextlib.suppress(Exception):
                pattern(32, 32).convert(mode).save(buffer, kind)
                break
        if buffer.getvalue():
            samples.append(Sample(f"picture {kind}", f".{kind.lower()}", buffer.getvalue()))
    return tuple(samples)
