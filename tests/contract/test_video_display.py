"""Frames of a file are those that a player shows: turned, mirrored, widened, in time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from lame_runtime.contract import Contract
from lame_runtime.contract.media.video import Clip, read_video
from lame_runtime.contract.media.videos import video_frames
from lame_runtime.contract.media.videos.video_timeline import FrameTimes
from lame_runtime.errors import InputError
from PIL import Image

Pixels = npt.NDArray[np.uint8]
CORNERS = np.zeros((96, 128, 3), np.uint8)
CORNERS[:48, :64], CORNERS[:48, 64:], CORNERS[48:, :64] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
ORIENTATIONS: dict[str, tuple[tuple[int, int, int, int], Callable[[Pixels], Pixels]]] = {
    "upright": ((1, 0, 0, 1), lambda frame: frame),
    "clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "upside down": ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    "counterclockwise": ((0, -1, 1, 0), np.rot90),
    "left-right": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "top-bottom": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "transposed": ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    "antitransposed": ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
    "twice the size": ((2, 0, 0, 2), lambda frame: frame),
}
COLORS = {
    "yuv420p": "5b261199fb9c8aeb",
    "yuvj420p": "62e145299464cee7",
    "yuv422p": "4f4530582109c0cb",
}
"""Beginnings of the SHA-256 of what `stored` shows: on x86 and ARM, with PyAV 14 to 18."""


def film(
    frames: Sequence[Pixels],
    container: str = "mp4",
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    source: str = "rgb24",
) -> bytes:
    """Returns a file of frames at 10 per second, or at times in milliseconds."""
    output = io.BytesIO()
    with av.open(output, "w", format=container) as file:
        stream = file.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.bit_rate = 4_000_000
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format=source)
            if times:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return output.getvalue()


def with_matrix(content: bytes, numbers: Sequence[float]) -> bytes:
    """Returns an MP4 file with another display matrix (a, b, c, d) in its track header."""
    start = content.index(b"tkhd") + 4
    offset = start + (32 if content[start] == 1 else 20) + 4 + 16
    a, b, c, d = (round(number * 65536) for number in numbers)
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    return content[:offset] + matrix + content[offset + 36 :]


def read(content: bytes, contract: Contract, **rules: Any) -> Clip:
    """Reads a file by the contract's rules, some of them changed."""
    return read_video(content, None, replace(contract.videos, **rules), contract.images)


def corners(frame: Pixels) -> list[list[int]]:
    """Returns the colors in the middle of a frame's quarters, as 0 and 1."""
    height, width = frame.shape[:2]
    rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return [(frame[row, column] > 128).astype(int).tolist() for row in rows for column in columns]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_turned_or_mirrored_video_is_shown_upright(name: str, contract: Contract) -> None:
    """As for pictures with an EXIF orientation; the size follows."""
    numbers, shown = ORIENTATIONS[name]
    got = read(with_matrix(film([CORNERS] * 4), numbers), contract).frames
    want = read(film([np.ascontiguousarray(shown(CORNERS))] * 4), contract).frames
    assert got.shape == want.shape
    assert corners(got[0]) == corners(want[0])


def test_without_the_matrix_a_mirrored_video_is_wrong(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: decoders do not apply it."""
    mirrored = with_matrix(film([CORNERS] * 4), ORIENTATIONS["left-right"][0])
    right = corners(read(mirrored, contract).frames[0])
    monkeypatch.setattr(video_frames, "_display_matrix", lambda frame, name: None)
    assert corners(read(mirrored, contract).frames[0]) != right


@pytest.mark.parametrize(
    "numbers", [(0.7, 0.7, -0.7, 0.7), (1, 0.5, 0, 1), (1, 0, 0, 0.5), (0, 0, 0, 0)]
)
def test_other_matrices_are_refused(numbers: tuple[float, ...], contract: Contract) -> None:
    """Slanted, sheared, stretched, and nothing at all."""
    with pytest.raises(InputError, match="not a multiple of 90 degrees, or distorted"):
        read(with_matrix(film([CORNERS] * 4), numbers), contract)


def with_message(content: bytes, container: str, *filters: str) -> bytes:
    """Returns an H.264 film with a message for displays, of one filter for each part of it."""
    output = io.BytesIO()
    with (
        av.open(io.BytesIO(content)) as source,
        av.open(output, "w", format=container) as file,
    ):
        stream = source.streams.video[0]
        target = file.add_stream_from_template(stream)
        contexts = [av.BitStreamFilterContext(entry, stream, target) for entry in filters]
        packets = [packet for packet in source.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            for changed in contexts[number * len(filters) // len(packets)].filter(packet):
                changed.stream = target
                file.mux(changed)
    return output.getvalue()


MESSAGE = "h264_metadata=display_orientation=insert:"


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("rotate=180", "upside down"),
        ("rotate=90", "counterclockwise"),
        ("flip=horizontal", "left-right"),
        ("flip=vertical", "top-bottom"),
    ],
)
def test_a_message_for_displays_turns_all_frames(
    container: str, option: str, name: str, contract: Contract
) -> None:
    """FFmpeg gives it with the first frame only; it holds until another one comes."""
    plain = film([CORNERS] * 8, "mp4", "libx264")
    frames = read(with_message(plain, container, MESSAGE + option), contract).frames
    want = film([np.ascontiguousarray(ORIENTATIONS[name][1](CORNERS))] * 8, "mp4", "libx264")
    turned = corners(read(want, contract).frames[0])
    assert len(frames) >= 4
    assert [corners(frame) for frame in frames] == [turned] * len(frames)


def test_frames_that_are_turned_differently_are_refused(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vector of frames that are turned in part would be wrong."""
    plain = film([CORNERS] * 16, "mp4", "mjpeg", "yuvj420p")
    matrix = np.array([-1, 0, 0, 0, -1, 0, 0, 0, 1], np.int32)
    monkeypatch.setattr(
        video_frames, "_display_matrix", lambda frame, name: matrix if frame.time > 0.75 else None
    )
    with pytest.raises(InputError, match="frame 8 of the video is rotated or mirrored in another"):
        read(plain, contract)


def test_frames_with_exif_are_refused_with_a_remedy(contract: Contract) -> None:
    """PyAV does not tell which data a frame has if it has a kind that PyAV does not know."""
    exif, picture, output = Image.Exif(), io.BytesIO(), io.BytesIO()
    exif[0x112] = 6
    Image.fromarray(CORNERS).save(picture, "JPEG", exif=exif)
    with av.open(output, "w", format="avi") as file:
        stream = file.add_stream("mjpeg", rate=4)
        stream.height, stream.width = CORNERS.shape[:2]
        stream.pix_fmt = "yuvj420p"
        for number in range(4):
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 4)
            file.mux(packet)
    with av.open(io.BytesIO(output.getvalue())) as file:
        try:
            list(next(file.decode(video=0)).side_data)
        except ValueError:
            pass
        else:
            pytest.skip("this FFmpeg does not read EXIF, or this PyAV knows it")
    with pytest.raises(InputError, match="such as EXIF, so it cannot tell how they are turned"):
        read(output.getvalue(), contract)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_pixels_that_are_no_squares_are_widened(container: str, contract: Contract) -> None:
    """As players do; the frame has the size of a film of that shape."""
    wide = film([CORNERS] * 4, container, "libx264", aspect=Fraction(2, 1))
    want = film([np.repeat(CORNERS, 2, axis=1)] * 4, container, "libx264")
    assert read(wide, contract).frames.shape == read(want, contract).frames.shape
    high = film([CORNERS] * 4, container, "libx264", aspect=Fraction(1, 2))
    want = film([np.repeat(CORNERS, 2, axis=0)] * 4, container, "libx264")
    assert read(high, contract).frames.shape == read(want, contract).frames.shape


@pytest.mark.parametrize(("codec", "pixels"), [("qtrle", "argb"), ("png", "rgba")])
def test_transparency_is_laid_over_white(codec: str, pixels: str, contract: Contract) -> None:
    """As for pictures, whatever color transparent pixels hide."""
    frame = np.zeros((96, 128, 4), np.uint8)
    frame[:, :64] = (200, 0, 0, 255)
    got = read(film([frame] * 4, "mov", codec, pixels, source="rgba"), contract).frames[0]
    assert got[40, 20].tolist() == [200, 0, 0]
    assert got[40, -20].tolist() == [255, 255, 255]


def test_transparency_that_ffmpeg_leaves_out_is_refused(contract: Contract) -> None:
    """VP9 stores it beside its frames, and shows what it hides."""
    frame = np.zeros((96, 128, 4), np.uint8)
    with pytest.raises(InputError, match="transparency"):
        read(film([frame] * 4, "webm", "libvpx-vp9", "yuva420p", source="rgba"), contract)


GRAYS = [np.full((64, 64, 3), 8 * level, np.uint8) for level in range(16)]
UNEVEN = [0, 40, 80, 120, 160, 200, 240, 280, 320, 360, 400, 440, 480, 1000, 2000, 3000]


def levels(clip: Clip) -> list[int]:
    """Returns the gray level of each frame of a clip."""
    return [round(float(frame.mean()) / 8) for frame in clip.frames]


@pytest.mark.parametrize("container", ["matroska", "mp4"])
@pytest.mark.parametrize("sampling", ["stride", "linspace"])
def test_frames_of_an_uneven_rate_are_those_of_their_moment(
    container: str, sampling: str, contract: Contract
) -> None:
    """Twelve frames within half a second are few of those that are sampled from four seconds."""
    content = film(GRAYS, container, times=UNEVEN)
    clip = read(content, contract, fps=2.0, min_frames=2, sampling=sampling)
    # the rate is that of all frames, whose last one is shown as long as the one before it
    period = clip.seconds_per_patch / contract.images.temporal_patch_size
    moments = [number * period for number in range(len(clip.frames))]
    assert moments[-1] > 2
    if sampling == "stride":
        want = [max(n for n, time in enumerate(UNEVEN) if time <= t * 1000 + 1) for t in moments]
        # sampled moments are whole frames at the mean rate, up to one of them apart
        assert sum(level >= 12 for level in levels(clip)) >= len(clip.frames) - 2
        assert np.abs(np.subtract(levels(clip), want)).max() <= 12
    assert levels(clip).count(12) <= 3


def test_an_even_rate_is_sampled_by_number(contract: Contract) -> None:
    """Rounded time stamps do not make a rate uneven, so frames and times are the processors'."""
    times = FrameTimes(0.001, 30.0, 3600.0)
    for number in range(300):
        times.add(round(number * 1000 / 30), None, 33)
    timeline = times.timeline()
    assert (timeline.rate, timeline.total, timeline.starts) == (30.0, 300, None)
    assert timeline.shown([0, 7, 299]) == [0, 7, 299]


@pytest.mark.parametrize(
    ("stamps", "rate", "is_even"),
    [
        ([0, 100, 200, 300], 10.0, True),  # the header is wrong
        ([0, 100, 200, 9_000_000], 10.0, True),  # a jump of the clock
        ([None, 100, 200, 300], 25.0, True),  # no times: by the header
        ([-200, -100, 0, 100], 10.0, True),
        ([0, 0, 0, 0], 25.0, True),
        ([0, 10, 20, 1000], 4 / 1.99, False),
        ([300, 100, 200, 0], 10.0, True),  # the order of decoding
    ],
)
def test_the_rate_is_that_of_the_frames(
    stamps: list[int | None], rate: float, is_even: bool
) -> None:
    """The header's rate counts where the frames have no times, or the same rate."""
    times = FrameTimes(0.001, 25.0, 3600.0)
    for stamp in stamps:
        times.add(stamp, None, 990 if stamp == 1000 else 100)
    timeline = times.timeline()
    assert timeline.rate == pytest.approx(rate)
    assert (timeline.starts is None) == is_even


def test_a_clock_that_is_reset_counts_frames(contract: Contract) -> None:
    """Recordings behind each other start again at zero, so their times cannot be sorted."""
    times = FrameTimes(0.001, 25.0, 3600.0)
    for stamp in (0, 40, 80, 0, 40, 80):
        times.add(stamp, stamp, 40)
    assert times.timeline().starts is None
    assert times.timeline().total == 6


def stored(pixels: str) -> av.VideoFrame:
    """Returns a frame of scattered values in a pixel format."""
    frame = av.VideoFrame(128, 96, pixels)
    for plane in frame.planes:
        values = (np.arange(plane.buffer_size, dtype=np.int64) * 2654435761 >> 16) % 200 + 20
        plane.update(values.astype(np.uint8).tobytes())
    return frame


@pytest.mark.parametrize("pixels", COLORS)
def test_colors_are_computed_the_same_on_every_cpu(pixels: str) -> None:
    """FFmpeg's fast conversions round otherwise on x86 and on ARM; `make aarch64` compares both."""
    frame = stored(pixels)
    shown = np.asarray(video_frames.shown_frame(frame, 0, None, "video").picture)
    assert hashlib.sha256(shown.tobytes()).hexdigest()[:16] == COLORS[pixels]
    # a control: the fast conversion; it is what others' processors use, so it must be near
    fast = frame.to_ndarray(format="rgb24")
    assert (fast != shown).any()
    assert np.abs(fast.astype(int) - shown).max() <= 3
