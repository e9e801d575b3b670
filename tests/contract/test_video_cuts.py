"""Videos that end early are refused or named: fragments, files of unknown length, zeros."""

from __future__ import annotations

import functools
import io
import os
import random
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from lame_runtime.contract import Contract
from lame_runtime.contract.media.video import read_video
from lame_runtime.contract.media.videos import (
    bounded_file,
    video_boxes,
    video_file,
)
from lame_runtime.contract.media.videos.video_zeros import content_end
from lame_runtime.errors import InputError
from samples import logged

FRAGMENTS = {
    "key frames": "frag_keyframe+empty_moov",
    "first in the index": "frag_keyframe",
    "every frame": "frag_every_frame+empty_moov+default_base_moof",
    "without an index": "frag_keyframe+empty_moov+skip_trailer",
    "DASH": "dash+frag_keyframe+global_sidx+skip_trailer",
    "CMAF": "cmaf+frag_every_frame",
}
FILMS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    **{name: ("mp4", "mpeg4", "yuv420p", {"movflags": flags}) for name, flags in FRAGMENTS.items()},
    "mp4": ("mp4", "mpeg4", "yuv420p", {"movflags": "faststart"}),
    "qtrle": ("mov", "qtrle", "rgb24", {"movflags": "faststart"}),
    "mkv": ("matroska", "mpeg4", "yuv420p", {}),
    "mkv live": ("matroska", "mpeg4", "yuv420p", {"live": "1"}),
    "mkv cues": ("matroska", "mpeg4", "yuv420p", {"cues_to_front": "1"}),
    "webm": ("webm", "libvpx-vp9", "yuv420p", {}),
    "avi": ("avi", "mjpeg", "yuvj420p", {}),
    "gif": ("gif", "gif", "rgb8", {}),
    "ts": ("mpegts", "mpeg2video", "yuv420p", {}),
    "mpg": ("vob", "mpeg2video", "yuv420p", {}),
}
"""Container, codec, pixel format and options of the container."""


@functools.cache
def write(name: str, frames: int = 16) -> bytes:
    """Returns a film of noise."""
    container, codec, pixels, options = FILMS[name]
    rng = np.random.default_rng(0)
    # writers that put an index in front read again what they wrote, by the file's name
    with (
        tempfile.NamedTemporaryFile() as output,
        av.open(output.name, "w", format=container, options=options) as file,
    ):
        stream = file.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = 4
        for _ in range(frames):
            noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        file.mux(stream.encode())
        file.close()
        return Path(output.name).read_bytes()


def reading(film: bytes, contract: Contract) -> tuple[Any, str]:
    """Returns the frames that are read, None if the film is refused, and what is said."""
    with logged() as messages:
        try:
            frames = read_video(film, None, contract.videos, contract.images).frames
        except InputError as error:
            return None, str(error)
    return frames, " ".join(messages)


def boxes(film: bytes) -> list[tuple[bytes, int, int]]:
    """Returns the kind, start and length of each box of the top level."""
    layout, position = [], 0
    while position < len(film):
        length, kind = struct.unpack_from(">I4s", film, position)
        layout.append((kind, position, length))
        position += length
    return layout


@pytest.mark.parametrize("name", FILMS)
def test_no_cut_goes_unnoticed(name: str, contract: Contract) -> None:
    """Wherever the file ends, or the zeros of an interrupted download begin."""
    film = write(name)
    whole, message = reading(film, contract)
    assert whole is not None
    assert ("does not tell its end" in message) == (name == "without an index")
    rng = random.Random(name)
    for end in (*rng.sample(range(300, len(film) - 1), 12), len(film) - 150):
        # nothing tells that a broadcast was cut between two frames
        if name == "ts" and end % 188 == 0:
            continue
        zeros = bytes(len(film) - end)
        for part in (film[:end], film[:end] + zeros, film[:end] + zeros + bytes(100_000)):
            frames, message = reading(part, contract)
            assert message or np.array_equal(frames, whole), end


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("zeros", [1, 7, 376, 5_000, 400_000])
def test_padding_behind_a_whole_file_changes_nothing(
    name: str, zeros: int, contract: Contract
) -> None:
    """Zeros that begin where an element ends are padding."""
    if name == "ts" and (zeros > 5_000 or zeros < 4):
        pytest.skip("FFmpeg does not search that far, or a packet may be cut")
    film = write(name)
    whole, message = reading(film, contract)
    frames, again = reading(film + bytes(zeros), contract)
    assert np.array_equal(frames, whole)
    assert again == message


@pytest.mark.parametrize("name", ["avi", "mpg", "mkv live", "gif"])
def test_padding_beyond_the_bound_ends_the_file(
    name: str, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg searches it, which is ended without harm if zeros are all that follows."""
    film = write(name)
    whole, _ = reading(film, contract)
    monkeypatch.setattr(bounded_file, "_MOST_ZEROS", 100_000)
    frames, message = reading(film + bytes(1_000_000), contract)
    assert np.array_equal(frames, whole)
    assert not message


def test_without_the_checks_zeros_are_read(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: FFmpeg skips them, or takes them for frames."""
    monkeypatch.setattr(video_file, "require_whole", lambda file, container, name: None)
    monkeypatch.setattr(video_file, "require_written", lambda packet, name, is_last: None)
    for name in ("mkv", "avi", "gif", "qtrle", "every frame"):
        film = write(name)
        frames, message = reading(film[: len(film) // 2] + bytes(len(film) // 2), contract)
        assert frames is not None, name
        assert not message or "damaged" in message


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_cut_between_fragments_is_named(name: str, contract: Contract) -> None:
    """Such a file has no end, so that only an index tells; the beginning of a box is a cut."""
    film = write(name)
    starts = [start for kind, start, _ in boxes(film) if kind == b"moof"]
    for start in starts[1:]:
        frames, message = reading(film[:start], contract)
        if "sidx" in FRAGMENTS[name]:
            assert frames is None
            assert "truncated" in message
        else:
            assert "the given bytes: the video's file does not tell its end" in message
        frames, message = reading(film[: start + 5], contract)
        assert frames is None
        assert "truncated" in message


def with_duration(film: bytes, ticks: int) -> bytes:
    """Returns a film of fragments whose header states how long they are (a box `mehd`)."""
    added = struct.pack(">I4sIQ", 20, b"mehd", 1 << 24, ticks)
    start = film.index(b"mvex") + 4
    changed = bytearray(film[:start] + added + film[start:])
    for kind in (b"moov", b"mvex"):
        at = film.index(kind) - 4
        struct.pack_into(">I", changed, at, struct.unpack_from(">I", film, at)[0] + len(added))
    return bytes(changed)


def test_a_stated_duration_tells_whether_fragments_are_missing() -> None:
    """More than half a second cannot be rounding."""

    def is_cut(film: bytes) -> bool | None:
        return video_boxes.mov_is_cut(io.BytesIO(film), len(film))

    plain = write("without an index", frames=50)
    film = with_duration(plain, 2_000)
    assert is_cut(plain) is None
    assert is_cut(film) is False
    starts = [start for kind, start, _ in boxes(film) if kind == b"moof"]
    assert is_cut(film[: starts[-1]]) is None
    assert is_cut(film[: starts[len(starts) // 2]]) is True


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("is_inner", [False, True])
def test_an_avi_of_unknown_length_is_walked(
    length: int, is_inner: bool, contract: Contract
) -> None:
    """As programs write it that cannot go back; the chunks show whether the last one is whole."""
    film = bytearray(write("avi"))
    struct.pack_into("<I", film, 4, length)
    if is_inner:
        struct.pack_into("<I", film, film.index(b"movi") - 4, length)
    whole, message = reading(bytes(film), contract)
    assert whole is not None
    assert not message
    for share in (0.3, 0.5, 0.501, 0.9):
        assert reading(bytes(film[: int(len(film) * share)]), contract)[0] is None


def test_a_gif_may_have_zeros_between_its_blocks(contract: Contract) -> None:
    """Some writers close a list of blocks twice."""
    film = write("gif")
    whole, _ = reading(film, contract)
    frames, message = reading(film[:-1] + b"\x00\x00;", contract)
    assert np.array_equal(frames, whole)
    assert not message


SPARSE = {
    "avi": b"RIFF\0\0\0\0AVI LIST",
    "gif": b"GIF89a\x10\0\x10\0\0\0\0",
    "mpg": b"\0\0\1\xba" + bytes(20),
    "ts": (b"\x47\x41\0\x10" + bytes(184)) * 4,
    "mkv": b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7,
    "mp4": b"\0\0\0\x18ftypisom" + bytes(12),
}


@pytest.mark.parametrize("suffix", SPARSE)
@pytest.mark.parametrize("tail", [b"", b"\x01"])
def test_terabytes_of_zeros_are_refused_at_once(
    suffix: str, tail: bytes, tmp_path: Path, contract: Contract
) -> None:
    """A sparse file takes no space, and FFmpeg would search it for hours."""
    path = tmp_path / f"a.{suffix}"
    with path.open("wb") as file:
        file.write(SPARSE[suffix])
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("the file system has no sparse files of that size")
        file.seek(0, os.SEEK_END)
        file.write(tail)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"a\.\w+: "):
        read_video(path, None, contract.videos, contract.images)
    assert time.monotonic() - start < 5


def test_without_the_bound_zeros_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: FFmpeg reads on until it finds a packet."""
    film = SPARSE["mpg"] + bytes(50_000_000) + b"\x01"

    def search() -> int:
        """Returns how far FFmpeg reads."""
        positions = [0]

        class File(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                data = super().read(size)
                positions.append(self.tell())
                return data

        with pytest.raises((av.FFmpegError, EOFError)):
            av.open(bounded_file.BoundedFile(File(film)), "r", format="mpeg").close()
        # the file's end is looked at, too
        return sorted(positions)[-20]

    assert search() < 40_000_000
    monkeypatch.setattr(bounded_file, "_MOST_ZEROS", 1 << 60)
    assert search() > 49_000_000


@pytest.mark.parametrize("zeros", [0, 1, 100, 4_095, 4_096, 4_097, 100_000])
def test_the_end_of_the_content_is_found(zeros: int) -> None:
    """By halving, to the byte."""
    for length in (0, 1, 4_095, 4_096, 4_097, 50_000):
        content = b"\x01" * length
        data = io.BytesIO(content + bytes(zeros))
        assert content_end(data, length + zeros) == length
