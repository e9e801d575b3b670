"""A video file opens nothing but itself, is whole, and takes a bounded memory; or it is refused."""

from __future__ import annotations

import io
import random
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from lame_runtime.contract import Contract
from lame_runtime.contract.media import frame_lists, video
from lame_runtime.contract.media.video import Clip, read_video
from lame_runtime.contract.media.videos import (
    bounded_file,
    video_container,
    video_file,
    video_frames,
)
from lame_runtime.contract.media.videos.video_broadcast import ends_within_frame
from lame_runtime.contract.media.videos.video_file import (
    VideoFile,
    open_video,
    survey_frames,
    survey_packets,
)
from lame_runtime.errors import InputError, LameError
from PIL import Image
from samples import logged, write_video

SESSION = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.0,\nplain.mp4\n#EXT-X-ENDLIST\n"
SCRIPT = b"ffconcat version 1.0\nfile plain.mp4\n"
SUFFIXES = {
    "mp4": "mpeg4", "m4v": "mpeg4", "mov": "mpeg4", "mkv": "mpeg4", "webm": "libvpx",
    "avi": "mpeg4", "ts": "mpeg2video", "mpg": "mpeg2video", "mpeg": "mpeg1video",
}  # fmt: skip
"""Containers by suffix, and a codec that each holds."""


def read(source: VideoFile, contract: Contract, **rules: Any) -> Clip:
    """Reads a file by the contract's rules, some of them changed."""
    return read_video(source, None, contract.videos, replace(contract.images, **rules))


def outcome(source: VideoFile, contract: Contract) -> str:
    """Returns the line that a file is refused with, or the warnings that it is read with."""
    with logged() as messages:
        try:
            read(source, contract)
        except LameError as error:
            return str(error)
    return " ".join(messages)


def refusal(source: VideoFile, contract: Contract, **rules: Any) -> str:
    """Returns the one line that a file is refused with."""
    with pytest.raises(InputError) as caught:
        read(source, contract, **rules)
    assert str(caught.value).isprintable()
    return str(caught.value)


def noisy_video(path: Path, frames: int = 20, size: int = 64) -> bytes:
    """Writes frames of noise, each of which fills several packets, and returns the file."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(SUFFIXES[path.suffix[1:]], rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            pixels = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("content", [SESSION, PLAYLIST, SCRIPT], ids=["sdp", "m3u8", "concat"])
def test_scripts_that_name_other_files_are_refused(
    content: bytes, tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they are called, and as bytes; the list of containers decides."""
    write_video(tmp_path / "plain.mp4", 4)
    (tmp_path / "upload.mp4").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for source in (content, Path("upload.mp4")):
        assert "it is not MP4, MOV, Matroska" in refusal(source, contract)


def test_without_both_guards_a_script_is_read(
    tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: the list of containers taken out, no protocol is spoken; without either, it is."""
    write_video(tmp_path / "plain.mp4", 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video_file, "container_format", lambda file, name: "concat")
    monkeypatch.setattr(video_file, "require_whole", lambda file, container, name: None)
    assert "cannot be decoded" in refusal(SCRIPT, contract)
    opened = av.open
    monkeypatch.setattr(
        av, "open", lambda file, **kwargs: opened(file, mode="r", format=kwargs["format"])
    )
    assert read(SCRIPT, contract).frames.size


def with_alias(film: bytes, path: str) -> bytes:
    """Returns an MP4 file whose index lies behind its media, with the media in another file."""
    name = path.encode()
    record = struct.pack(">H", 2) + struct.pack(">H", len(name)) + name + b"\x00" * (len(name) % 2)
    # version and flags, then the fields of an alias record that are skipped
    alias = bytes(4) + bytes(10 + 28 + 12 + 64 + 16)
    alias += struct.pack(">2h", 0, 0) + bytes(16) + record + b"\xff\xff\x00\x00" + bytes(40)
    old = film.index(b"url \x00\x00\x00\x01") - 4
    entry = struct.pack(">I", len(alias) + 8) + b"alis" + alias
    added = len(entry) - 12
    linked = bytearray(film[:old] + entry + film[old + 12 :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = film.index(kind) - 4
        (length,) = struct.unpack_from(">I", film, start)
        struct.pack_into(">I", linked, start, length + added)
    return bytes(linked)


def test_a_track_in_another_file_is_not_followed(tmp_path: Path, contract: Contract) -> None:
    """A data reference of an MP4 file may name a path; FFmpeg is told not to open it."""
    plain = write_video(tmp_path / "plain.mp4", 4)
    linked = with_alias(plain.read_bytes(), str(plain))
    assert "no frames" in refusal(linked, contract)
    # a control: it would open the file, if it were allowed to
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(io.BytesIO(linked), format="mov", options=options) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


def test_a_name_with_a_colon_is_a_name(
    tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg would take what stands before the colon for a protocol."""
    film = write_video(tmp_path / "plain.mp4", 4).read_bytes()
    monkeypatch.chdir(tmp_path)
    names = ("12:30:05.mp4", "file:a.mp4", "concat:x.mp4", "subfile,,start,0,end,0,,:a.mp4")
    for name in names:
        Path(name).write_bytes(film)
        assert np.array_equal(read(Path(name), contract).frames, read(film, contract).frames)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [30, 50, 85])
def test_a_truncated_video_is_refused_or_named_in_a_warning(
    suffix: str, share: int, tmp_path: Path, contract: Contract
) -> None:
    """In every container; the whole file gives neither."""
    film = noisy_video(tmp_path / f"whole.{suffix}")
    assert not outcome(tmp_path / f"whole.{suffix}", contract)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(film[: len(film) * share // 100])
    assert cut.name in outcome(cut, contract)


def test_without_the_guard_a_truncated_video_is_read(
    tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: FFmpeg itself reports nothing."""
    film = noisy_video(tmp_path / "a.mkv")
    monkeypatch.setattr(video_file, "require_whole", lambda file, container, name: None)
    assert read(film[: len(film) // 2], contract).frames.size


@pytest.mark.parametrize("stride", [1, 2])
def test_a_broadcast_may_end_between_packets(stride: int, tmp_path: Path) -> None:
    """It is sound; the last packet shows whether its last frame is whole."""
    film = noisy_video(tmp_path / "a.ts", 4)
    with open_video(film) as opened:
        assert not ends_within_frame(opened.file, opened.container, 0x100)
    with open_video(film[: -188 * stride]) as opened:
        assert ends_within_frame(opened.file, opened.container, 0x100)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_metadata_in_another_encoding_changes_nothing(
    suffix: str, tmp_path: Path, contract: Contract
) -> None:
    """Metadata plays no part in a vector."""
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "cafeXYZ"
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        pixels = np.full((64, 64, 3), 90, np.uint8)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    film = path.read_bytes()
    latin = film.replace(b"cafeXYZ", b"caf\xe9XYZ")
    assert latin != film
    assert np.array_equal(read(latin, contract).frames, read(film, contract).frames)


def test_damage_inside_a_frame_is_named_in_a_warning(tmp_path: Path, contract: Contract) -> None:
    """Decoders conceal it, as players do, so that it would pass without a word."""
    path = tmp_path / "a.mp4"
    film = bytearray(noisy_video(path))
    start = film.index(b"mdat") + 1500
    film[start : start + 300] = bytes(300)
    path.write_bytes(film)
    assert "a.mp4: the video" in outcome(path, contract)


@pytest.mark.parametrize(
    ("table", "fields", "message"),
    [
        ("stsz", (1, 20_000_000), "20,000,000 frames, the limit is 2,000,000"),
        ("stsz", (1_000_000, 1_000), "1,000,000,000 bytes of frames"),
        ("stts", (1, 2**31), "2,147,483,648 frames"),
    ],
)
def test_an_index_may_not_claim_more_than_the_file_holds(
    table: str, fields: tuple[int, int], message: str, tmp_path: Path, contract: Contract
) -> None:
    """FFmpeg would allocate an entry for each of its frames."""
    film = bytearray(write_video(tmp_path / "a.mp4", 4).read_bytes())
    start = film.index(table.encode()) + 8
    film[start : start + 8] = struct.pack(">2I", *fields)
    assert message in refusal(bytes(film), contract)


def test_many_tracks_may_not_claim_the_limit_each() -> None:
    """Fragments and tracks count together."""
    table = struct.pack(">I4s4x3I", 24, b"stsz", 1, 1_000_000, 0)

    def index(tracks: int) -> io.BytesIO:
        moov = struct.pack(">I4s", 8 + tracks * 24, b"moov") + table * tracks
        return io.BytesIO(moov + struct.pack(">I4s", 0, b"mdat") + bytes(1_000_000))

    video_container.require_whole(index(5), "mov", "a")
    with pytest.raises(InputError, match="the limit is 2,000,000"):
        video_container.require_whole(index(7), "mov", "a")


def test_ffmpeg_takes_what_an_index_claims(tmp_path: Path) -> None:
    """A control: without the check a file of a kilobyte has a million index entries."""
    film = bytearray(write_video(tmp_path / "a.mp4", 4).read_bytes())
    claims = {"stsz": (8, 1, 10**6), "stsc": (16, 10**6), "stts": (12, 10**6)}
    for table, (offset, *fields) in claims.items():
        start = film.index(table.encode()) + offset
        film[start : start + 4 * len(fields)] = struct.pack(f">{len(fields)}I", *fields)
    with av.open(io.BytesIO(film), format="mov") as container:
        assert container.streams.video[0].frames == 10**6


def test_large_frames_are_refused_before_one_is_decoded(
    tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the size in the header, and by the memory that their decoder may take."""
    film = write_video(tmp_path / "a.mp4", 4, size=(640, 480)).read_bytes()
    monkeypatch.setattr(video_frames, "shown_frame", None)
    assert "640×480, the limit is 0 megapixels" in refusal(film, contract, max_source_pixels=9_000)
    monkeypatch.setattr(video_frames, "DECODER_BYTES", 640 * 480 * 10)
    assert "could take more than 3 MB" in refusal(film, contract)


def motion_jpeg(*sizes: int) -> bytes:
    """Returns an AVI file of square JPEG pictures; the first size is that in the header."""
    output = io.BytesIO()
    with av.open(output, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=4)
        stream.width = stream.height = sizes[0]
        stream.pix_fmt = "yuvj420p"
        for number, size in enumerate(sizes):
            picture = io.BytesIO()
            Image.new("RGB", (size, size), (9, 9, 200)).save(picture, "JPEG")
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 4)
            container.mux(packet)
    return output.getvalue()


def test_frames_that_grow_are_refused(contract: Contract) -> None:
    """A frame larger than the limit is refused by the decoder, before it has memory for it."""
    assert read(motion_jpeg(64, 64, 64, 64), contract).frames.size
    grown = motion_jpeg(64, 64, 640, 640)
    assert "cannot be decoded" in refusal(grown, contract, max_source_pixels=10_000)
    assert "use one size" in refusal(grown, contract)


def test_patches_are_counted_before_frames_are_kept(tmp_path: Path, contract: Contract) -> None:
    """The first frame of a list tells how many patches all of them make."""

    def refuse(patches: int) -> None:
        raise InputError(f"{patches} patches")

    frames = (Image.new("RGB", (56, 56)), tmp_path / "missing.png")
    with pytest.raises(InputError, match=r"\d patches"):
        read_video(frames, 2.0, contract.videos, contract.images, refuse)
    with pytest.raises(InputError, match="no such file"):
        read_video(frames, 2.0, contract.videos, contract.images)


def test_frames_of_a_list_are_measured_before_they_are_copied(contract: Contract) -> None:
    """A view can stand for gigabytes; what is no frame is named."""
    view = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (30_000, 30_000, 3))
    for frame, message in ((view, "30000×30000, the limit is 89"), (5, "is a int; use paths")):
        with pytest.raises(InputError, match=message):
            read_video((frame,), 2.0, contract.videos, contract.images)  # type: ignore[arg-type]


class Counted(Image.Image):
    """A picture of which we know how many are alive."""

    alive = most = 0

    def __init__(self) -> None:
        super().__init__()
        self._im, self._size, self._mode = Image.core.new("RGB", (56, 56)), (56, 56), "RGB"
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1


@pytest.mark.parametrize("keeps", [False, True])
def test_one_frame_of_a_list_is_in_memory_at_a_time(
    keeps: bool, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one takes 350 MB; a loop that keeps one while the next is opened shows (control)."""
    monkeypatch.setattr(frame_lists, "open_image", lambda frame, rules: Counted())
    if keeps:
        listed = frame_lists.listed_frames
        monkeypatch.setattr(
            video, "listed_frames", lambda *given: (f for _, f in enumerate(listed(*given)))
        )
    Counted.most = 0
    read_video(("a.png",) * 6, 2.0, contract.videos, contract.images)
    assert Counted.most == 1 + keeps
    assert Counted.alive == 0


def test_pil_pictures_that_stay_loaded_are_bounded(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow keeps the pixels in the caller's pictures; those that are loaded already are free."""
    content = io.BytesIO()
    Image.new("RGB", (56, 56)).save(content, "PNG")
    monkeypatch.setattr(frame_lists, "MAX_LOADED_BYTES", 4 * 56 * 56 * 4)

    def opened(count: int) -> list[Image.Image]:
        return [Image.open(io.BytesIO(content.getvalue())) for _ in range(count)]

    same = opened(1) * 8
    for frames in (opened(3), same):
        read_video(frames, 2.0, contract.videos, contract.images)
    loaded = opened(8)
    for frame in loaded:
        frame.load()
    read_video(loaded, 2.0, contract.videos, contract.images)
    with pytest.raises(InputError, match="the video's 4 PIL pictures take 0 MB to load"):
        read_video(opened(4), 2.0, contract.videos, contract.images)


def test_reading_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged index can send FFmpeg back to the same bytes over and over."""
    film = write_video(tmp_path / "a.avi", 40).read_bytes()
    monkeypatch.setattr(bounded_file, "_REREAD_BYTES", 0)
    monkeypatch.setattr(bounded_file, "_REREADS", 0)
    with open_video(film) as opened, pytest.raises(InputError, match="damaged"):
        survey_packets(opened)


def test_more_frames_than_the_limit_are_refused(
    tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting packets stops there, whatever the header says."""
    film = write_video(tmp_path / "a.mkv", 12).read_bytes()
    monkeypatch.setattr(video_file, "MAX_FRAMES", 11)
    assert "more than 11 frames" in refusal(film, contract)


def test_frames_that_vp8_only_refers_to_do_not_count(tmp_path: Path) -> None:
    """The packets that are counted are those that give frames."""
    film = noisy_video(tmp_path / "a.webm", 30)
    with open_video(film) as opened:
        assert survey_packets(opened).total == survey_frames(opened, 10**6).total == 30


def test_the_cover_of_an_album_is_no_video(contract: Contract) -> None:
    """A player shows a sound file's cover beside the sound, not as a video."""
    output = io.BytesIO()
    with av.open(output, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=44_100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        if not hasattr(cover, "disposition"):
            pytest.skip("this version of PyAV does not tell covers apart")
        cover.disposition = 0x400
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.rate = 44_100
        for packets in (
            cover.encode(picture),
            cover.encode(),
            sound.encode(samples),
            sound.encode(),
        ):
            container.mux(packets)
    assert "holds no video stream" in refusal(output.getvalue(), contract)


def test_a_codec_off_the_list_is_named(
    tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names it and the remedy."""
    film = write_video(tmp_path / "a.mp4", 4).read_bytes()
    monkeypatch.delitem(video_frames.DECODERS, "mpeg4")
    assert "codec (mpeg4) is not supported; convert it to H.264" in refusal(film, contract)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mpg"])
def test_mutated_files_are_read_or_refused(suffix: str, tmp_path: Path, contract: Contract) -> None:
    """No other exception escapes."""
    film = noisy_video(tmp_path / f"a.{suffix}", 4)
    rng = random.Random(suffix)
    for _ in range(40):
        mutant = bytearray(film)
        for _ in range(rng.choice([1, 4, 16])):
            mutant[rng.randrange(len(film))] = rng.randrange(256)
        assert outcome(bytes(mutant), contract).isprintable()


def test_the_list_of_containers_is_that_of_the_documentation() -> None:
    """A first kilobyte of each is told apart from text."""
    for head in (b"", b"G" * 100, b"<?xml ", b"\x00" * 600, SESSION):
        with pytest.raises(InputError, match="convert it to MP4"):
            video_container.container_format(io.BytesIO(head), "a")
