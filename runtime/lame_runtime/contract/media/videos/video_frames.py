"""Decodes frames within a bounded memory, and turns them into what a player shows.

Phones record sideways and note a display matrix; front cameras mirror; discs and cameras store
frames whose pixels are not square. Neither FFmpeg's decoders nor PyAV apply any of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lame_runtime.errors import InputError

DECODER_BYTES = 750_000_000
"""Memory that decoding one video may take. A frame's size is checked against it beforehand."""
MAX_THREADS = 4
"""Threads of a decoder, each of which has a frame in the works."""
DECODERS = {
    "h264": 17, "hevc": 17,
    "vp8": 5, "vp9": 10, "av1": 10, "libdav1d": 10, "libaom-av1": 10,
    "mpeg1video": 4, "mpeg2video": 4, "mpeg4": 4, "msmpeg4": 3, "msmpeg4v2": 3, "h263": 3,
    "mjpeg": 2, "prores": 2, "dnxhd": 2, "dvvideo": 2, "gif": 2,
    "ffv1": 3, "ffvhuff": 2, "huffyuv": 2, "rawvideo": 2, "png": 3, "qtrle": 2,
}  # fmt: skip
"""FFmpeg's decoders that are used, and the frames that each keeps at most."""
_DENSE = {"vp8", "vp9", "av1", "libdav1d", "libaom-av1", "qtrle"}
_HEADER_BYTES, _OWN_ZEROS = 8, 64
"""Smallest packet that is looked at, and zeros at its end that a dense codec does not write."""
_CONVERTED_BYTES = 10
"""Bytes per pixel of a frame's RGB copies: FFmpeg's, NumPy's, and Pillow's with four."""
_BILINEAR, _POINT, _EXACT = 0x2, 0x10, 0x40000 | 0x80000
"""FFmpeg's flags SWS_BILINEAR, SWS_POINT, and SWS_ACCURATE_RND with SWS_BITEXACT."""
_REPEATED_CHROMA = {"yuv420p", "yuvj420p", "yuva420p", "yuv422p", "yuvj422p"}
"""Pixel formats whose chroma FFmpeg repeats on x86 by default; it interpolates that of others."""
MATRIX_TOLERANCE = 1 / 64
"""Fraction by which an entry of a display matrix may be off from 0 or from the others' size: about
one degree."""
MAX_STRETCH = 200
"""Largest ratio of a pixel's sides."""


@dataclass(frozen=True)
class ShownFrame:
    """One frame, upright, and the size that it is shown at."""

    picture: Image.Image
    """RGB, at its size in the file."""
    width: int
    height: int


def decode(
    packets: Iterable[Any], stream: Any, name: str, most_pixels: int, *, is_strict: bool
) -> Iterator[Any]:
    """Yields the frames of a stream; their size is checked before each packet is decoded.

    Args:
        packets: the packets of the stream, in the file's order.
        stream: a video stream of PyAV, whose decoder is one of `DECODERS`.
        name: the file's name, for messages.
        most_pixels: largest number of pixels of a frame that is decoded.
        is_strict: raise an error where the decoder would conceal damage.

    Raises:
        InputError: a frame is too large or incomplete.
        Exception: PyAV's, for everything else.
    """
    context = stream.codec_context
    threads = _require_memory(name, context, most_pixels, MAX_THREADS)
    context.thread_count = threads
    context.thread_type = "AUTO" if threads > 1 else "SLICE"
    # Makes the decoder refuse a larger frame before it allocates memory for it.
    frames = DECODERS[context.name] + threads
    pixel_bytes = _bytes_per_pixel(context.format) * frames + _CONVERTED_BYTES
    context.options = {"max_pixels": str(min(most_pixels, int(DECODER_BYTES / pixel_bytes)))}
    if is_strict:
        context.options = {**context.options, "err_detect": "crccheck+explode"}
    for packet in packets:
        require_complete(packet, name)
        for frame in packet.decode():
            require_complete(frame, name)
            yield frame
        # The format can also change mid-stream, some frames before the first new one comes out.
        _require_memory(name, context, most_pixels, threads)


def _require_memory(name: str, context: Any, most_pixels: int, threads: int) -> int:
    """Returns how many threads may decode, at least one.

    Raises:
        InputError: the frames have more than `most_pixels`, or decoding them takes too much memory.
    """
    pixels = context.width * context.height
    if pixels > most_pixels:
        raise InputError(
            f"{name}: the video's frames are {context.width}×{context.height}, the limit is "
            f"{most_pixels / 1e6:.0f} megapixels; scale it down first"
        )
    frames = DECODERS[context.name]
    pixel_bytes = _bytes_per_pixel(context.format)
    for count in range(threads, 0, -1):
        if pixels * (pixel_bytes * (frames + count) + _CONVERTED_BYTES) <= DECODER_BYTES:
            return count
    raise InputError(
        f"{name}: decoding frames of {context.width}×{context.height} could take more than "
        f"{DECODER_BYTES / 1e6:.0f} MB; scale the video down first: "
        "ffmpeg -i IN -vf scale=1920:-2 OUT.mp4"
    )


def require_complete(part: Any, name: str) -> None:
    """Checks a packet or frame of PyAV, which FFmpeg may have marked as incomplete.

    Raises:
        InputError: it was marked.
    """
    if part.is_corrupt:
        raise InputError(
            f"{name}: the video cannot be decoded (a frame is incomplete); "
            "it is truncated or damaged"
        )


def require_written(packet: Any, name: str, *, is_last: bool) -> None:
    """Checks that a packet of PyAV is not made of the zeros that an interrupted download leaves.

    Raises:
        InputError: the packet holds nothing but zeros, or it is the last one and ends in zeros that
            its codec never writes and its decoder would accept without an error.
    """
    codec = packet.stream.codec_context.name
    data = memoryview(packet)
    if codec == "rawvideo" or len(data) < _HEADER_BYTES or any(data[-_HEADER_BYTES:]):
        return
    zeros = len(data) - len(bytes(data).rstrip(b"\x00"))
    if zeros == len(data) or (is_last and codec in _DENSE and zeros >= _OWN_ZEROS):
        raise InputError(
            f"{name}: the video is truncated: zeros stand where a frame should be; copy it again"
        )


class Orientation:
    """Holds how the frames of a video are turned, according to its file or its first frame.

    FFmpeg attaches the display orientation that an H.264 or H.265 frame states to that frame only,
    although it applies to the frames after it as well.

    Args:
        name: the file's name, for messages.
    """

    def __init__(self, name: str) -> None:
        self.matrix: npt.NDArray[np.int32] | None = None
        self._name = name
        self._frames = 0

    def note(self, frame: Any) -> None:
        """Records how the next frame, a PyAV `VideoFrame`, is turned, even if it is not sampled.

        Raises:
            InputError: it is turned differently from the first one, or PyAV cannot tell how.
        """
        matrix = _display_matrix(frame, self._name)
        if self._frames == 0:
            self.matrix = matrix
        elif matrix is not None and not np.array_equal(matrix, self.matrix):  # type: ignore[arg-type]
            raise InputError(
                f"{self._name}: frame {self._frames} of the video is rotated or mirrored in "
                "another way than the first; convert the video to upright frames first"
            )
        self._frames += 1


def shown_frame(
    frame: Any, pixel_aspect: float, matrix: npt.NDArray[np.int32] | None, name: str
) -> ShownFrame:
    """Returns a decoded frame as a player shows it.

    Args:
        frame: a PyAV `VideoFrame`.
        pixel_aspect: width of a pixel divided by its height; 0 if unknown.
        matrix: the display matrix of `Orientation`.
        name: the file's name, for messages.

    Raises:
        InputError: it is rotated by an angle not a multiple of 90 degrees, or distorted.
    """
    pixels = _over_white(frame)
    height, width = pixels.shape[:2]
    # Never shrunk, as in browsers: the longer side of a pixel counts.
    if 1 < pixel_aspect <= MAX_STRETCH:
        width = round(width * pixel_aspect)
    elif 1 / MAX_STRETCH <= pixel_aspect < 1:
        height = round(height / pixel_aspect)
    elif pixel_aspect not in (0, 1):
        raise InputError(
            f"{name}: the video's pixels are {pixel_aspect:.3g} times as wide as high; "
            "scale it to square pixels first"
        )
    if matrix is not None:
        is_turned, flips_across, flips_down = _orientation(matrix, name)
        if is_turned:
            pixels, width, height = pixels.transpose(1, 0, 2), height, width
        pixels = pixels[:: -1 if flips_down else 1, :: -1 if flips_across else 1]
    return ShownFrame(Image.fromarray(np.ascontiguousarray(pixels)), width, height)


def _over_white(frame: Any) -> npt.NDArray[np.uint8]:
    """Returns the pixels, uint8 (height, width, 3); transparent ones are laid over white."""
    # FFmpeg's fast conversions round otherwise on x86 and on ARM, by up to two levels of 255. The
    # exact ones are equal everywhere, and within three levels of the fast ones on x86.
    scaler = _EXACT | (_POINT if frame.format.name in _REPEATED_CHROMA else _BILINEAR)
    if not _has_alpha(frame.format):
        pixels: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24", interpolation=scaler)
        return pixels
    # Without its alpha channel a frame would show whatever color transparent pixels hide.
    picture = Image.fromarray(frame.to_ndarray(format="rgba", interpolation=scaler))
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def _display_matrix(frame: Any, name: str) -> npt.NDArray[np.int32] | None:
    """Returns the nine entries of the frame's display matrix, or None if it has none."""
    try:
        entries = list(frame.side_data)
    except ValueError:
        # PyAV knows only some kinds of side data, and raises if a frame has any other.
        raise InputError(
            f"{name}: the video's frames hold data that PyAV does not know, such as EXIF, so it "
            "cannot tell how they are turned; convert it: ffmpeg -i IN -pix_fmt yuv420p OUT.mp4"
        ) from None
    for entry in entries:
        # the first counts, as in players: the file's own stands before that of its frames
        if entry.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(entry), dtype=np.int32)
            return matrix if len(matrix) == 9 else None
    return None


def _orientation(matrix: npt.NDArray[np.int32], name: str) -> tuple[bool, bool, bool]:
    """Returns whether rows become columns, and whether x and y are then flipped.

    A matrix (a b u, c d v, x y w) moves a point from (x, y) to (a x + c y, b x + d y).

    Raises:
        InputError: the matrix does anything else.
    """
    a, b, u, c, d, v, _, _, w = (int(entry) for entry in matrix)
    is_turned = abs(b) > abs(a)
    across, down, *others = (c, b, a, d) if is_turned else (a, d, b, c)
    size = max(abs(across), abs(down))
    tolerance = MATRIX_TOLERANCE * size
    is_even = abs(abs(across) - abs(down)) <= tolerance
    if size == 0 or not is_even or max(map(abs, others)) > tolerance or u or v or w <= 0:
        raise InputError(
            f"{name}: the video is rotated by an angle not a multiple of 90 degrees, or "
            "distorted; convert it to upright frames first"
        )
    return is_turned, across < 0, down < 0


def _bytes_per_pixel(pixel_format: Any) -> float:
    """Returns the memory of a decoded pixel; the format is None if it is not known yet."""
    if pixel_format is None:
        return 3.0  # 10 bits in 4:2:0
    return max(1.0, float(pixel_format.padded_bits_per_pixel) / 8)


def _has_alpha(pixel_format: Any) -> bool:
    """Returns whether pixels of a PyAV `VideoFormat` can be transparent; a palette's can."""
    is_transparent = any(component.is_alpha for component in pixel_format.components)
    return is_transparent or str(pixel_format.name) == "pal8"
