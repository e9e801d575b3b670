"""Pictures are opened by an allow-list of decoders, within bounds, and by one thread at a time."""

from __future__ import annotations

import io
import os
import random
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime.contract import ImageRules, Preparer
from lame_runtime.contract.media import decoders, decoding_limits
from lame_runtime.contract.media.images import open_image
from lame_runtime.errors import InputError
from lame_runtime.files import in_memory
from lame_runtime.inputs import as_input
from PIL import EpsImagePlugin, Image, ImageFile, features

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n{} loop\n%%EOF\n"


@pytest.fixture(scope="module")
def rules(preparer: Preparer) -> ImageRules:
    return preparer.contract.images


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    (image or noise()).save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def readable_formats() -> list[str]:
    missing = {"AVIF": "avif", "WEBP": "webp"}
    return [kind for kind in decoders.FORMATS if features.check(missing.get(kind, "jpg"))]


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `gs` that only leaves a mark; returns where."""
    mark, script = tmp_path / "mark", tmp_path / "bin/gs"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 10 && exit 0\necho ran >> {mark}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return mark


def test_postscript_under_any_name_starts_no_program(
    ghostscript: Path, tmp_path: Path, rules: ImageRules
) -> None:
    """Neither by its path, nor by its bytes, nor as a PIL picture that is not loaded yet."""
    (tmp_path / "photo.png").write_bytes(EPS)
    with Image.open(tmp_path / "photo.png") as lazy:
        for source in (tmp_path / "photo.png", EPS, lazy):
            with pytest.raises(InputError, match="PNG, JPEG") as caught:
                open_image(source, rules)
            assert "\n" not in str(caught.value)
    assert not ghostscript.exists()


def test_without_the_list_postscript_would_start_one(
    ghostscript: Path, rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with EPS allowed, loading the same picture starts the stand-in."""
    monkeypatch.setattr(decoders, "_ALLOWED", frozenset({"EPS"}))
    with pytest.raises(InputError):
        open_image(Image.open(io.BytesIO(EPS)), rules)
    assert ghostscript.exists()


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI", "JPEG2000", "DDS", "QOI"])
def test_a_format_that_is_not_listed_is_refused(kind: str, rules: ImageRules) -> None:
    """By its bytes, and as a PIL picture until its owner has loaded it."""
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("needs a Pillow with JPEG 2000")
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"needs a Pillow that writes {kind}")
    data = encoded(kind, noise(64, 64))
    with pytest.raises(InputError, match="not a picture in a supported format"):
        open_image(data, rules)
    image = Image.open(io.BytesIO(data))
    with pytest.raises(InputError, match="call its `load` first"):
        open_image(image, rules)
    image.load()
    assert open_image(image, rules).mode == "RGB"


@pytest.mark.parametrize("kind", readable_formats())
def test_a_listed_format_is_what_pillow_makes_of_it(kind: str, rules: ImageRules) -> None:
    """As bytes, and as a PIL picture."""
    data = encoded(kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(np.asarray(open_image(data, rules)), expected)
    image = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(open_image(image, rules)), expected)


@pytest.mark.parametrize("kind", readable_formats())
def test_damage_is_an_input_error_in_one_line(kind: str, rules: ImageRules) -> None:
    """Whatever byte is changed, wherever the file ends, as bytes or as a PIL picture."""
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    whole, draw = encoded(kind, **options), random.Random(0)
    small = replace(rules, max_source_pixels=1_000_000)
    messages = []
    with warnings.catch_warnings():
        # what Pillow says about damaged metadata
        warnings.simplefilter("ignore")
        for number in range(120):
            data = damaged(whole, draw)
            source: Any = data
            if number % 2:
                try:
                    source = Image.open(io.BytesIO(data))
                except Exception:  # Pillow refused it before it could be given
                    continue
            try:
                assert open_image(source, small).mode == "RGB"
            except InputError as error:
                messages.append(str(error))
    assert messages
    assert all(len(message) < 400 and "\n" not in message for message in messages)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Returns a file with a few other bytes, often in its header, and sometimes cut off."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 3, 10))):
        data[draw.randrange(2, min(len(data), draw.choice((40, 10**6))))] = draw.randrange(256)
    if draw.random() < 0.3:
        del data[draw.randrange(len(data)) :]
    return bytes(data)


def test_a_damaged_pil_picture_is_refused_every_time(rules: ImageRules) -> None:
    """Pillow keeps what it decoded before the damage, which must not count at the next call."""
    for kind, options in {"JPEG": {}, "PNG": {}, "TIFF": {"compression": "tiff_lzw"}}.items():
        data = encoded(kind, noise(200, 200), **options)
        image = Image.open(
            io.BytesIO(data[:-3000] if kind != "TIFF" else data.replace(b"\x80", b"\0"))
        )
        for _ in range(3):
            with pytest.raises(InputError):
                open_image(image, rules)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF"])
def test_threads_may_share_a_picture_that_is_not_loaded(kind: str, rules: ImageRules) -> None:
    """Every thread gets the same pixels."""
    data = encoded(kind, noise(700, 700))
    expected = np.asarray(open_image(data, rules))
    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            image = Image.open(io.BytesIO(data))
            for picture in pool.map(lambda _, image=image: open_image(image, rules), range(6)):
                assert np.array_equal(np.asarray(picture), expected)


def test_a_picture_is_loaded_by_one_thread_at_a_time(
    rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the lock, two threads are seen to load at the same time."""
    loading, overlaps, both = [], [], threading.Barrier(2)

    class Slow(Image.Image):
        def load(self) -> None:
            loading.append(self)
            overlaps.append(len(loading) > 1)
            threading.Event().wait(0.05)
            loading.remove(self)

    image = noise()
    image.__class__ = Slow

    def read(_: int) -> None:
        both.wait()
        decoders.load_shared(image, "a", rules)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read, range(2)))
        assert not any(overlaps)
        monkeypatch.setattr(decoders, "_lock", threading.Semaphore(2))
        list(pool.map(read, range(2)))
        assert any(overlaps)


def test_a_picture_whose_file_was_closed_is_refused_as_such(
    tmp_path: Path, rules: ImageRules
) -> None:
    """The message names the remedy; a picture that was loaded in time is fine."""
    noise().save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(InputError, match="was closed before the pixels were read"):
        open_image(image, rules)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    assert np.array_equal(np.asarray(open_image(image, rules)), np.asarray(noise()))


def test_a_picture_that_was_closed_is_not_called_damaged(tmp_path: Path, rules: ImageRules) -> None:
    """Closed with the file that its owner opened, with a buffer, or by itself."""
    noise().save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        beside = Image.open(file)
    buffer = io.BytesIO(encoded("PNG"))
    inside = Image.open(buffer)
    buffer.close()
    for image in (beside, inside):
        with pytest.raises(InputError, match="was closed before the pixels were read"):
            open_image(image, rules)
    loaded = Image.open(tmp_path / "a.png")
    loaded.load()
    loaded.close()
    with pytest.raises(InputError, match="the picture was closed"):
        open_image(loaded, rules)


def test_a_frame_that_was_decoded_before_its_file_was_closed_is_read(rules: ImageRules) -> None:
    """The control: formats that Pillow reads at once need their file no longer."""
    for kind in {"WEBP", "AVIF"} & set(readable_formats()):
        image = Image.open(io.BytesIO(encoded(kind, save_all=True, append_images=[noise(seed=1)])))
        for number in (1, 0):
            image.seek(number)
            assert open_image(image, rules).size == (64, 48)


@pytest.mark.parametrize("exif", [b"Exif\0\0junkjunkjunk", b"Exif\0\0MM", b"Exif\0\0\0"])
def test_damaged_exif_data_count_as_none_in_every_format(exif: bytes, rules: ImageRules) -> None:
    """As in a browser; as bytes and as a PIL picture, read twice."""
    for kind in {"JPEG", "PNG", "WEBP"} & set(readable_formats()):
        options = {"lossless": True} if kind == "WEBP" else {}
        expected = np.asarray(open_image(encoded(kind, **options), rules))
        data = encoded(kind, exif=exif, **options)
        image = Image.open(io.BytesIO(data))
        for source in (data, image, image):
            assert np.array_equal(np.asarray(open_image(source, rules)), expected)


def test_a_file_and_a_picture_on_it_are_read_by_one_thread_at_a_time(
    tmp_path: Path, rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share one position, so one lock holds for both; the control has two."""
    noise().save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        image = Image.open(file)

        def reads_the_file(**_: object) -> bool:
            """Returns whether a thread that reads the file finishes while the picture is loaded."""
            other = threading.Thread(target=in_memory.as_bytes, args=(file,))
            other.start()
            other.join(0.2)
            others.append(other)
            return not other.is_alive()

        others: list[threading.Thread] = []
        seen = []
        monkeypatch.setattr(
            decoders, "check_loadable", lambda *_: seen.append(reads_the_file()) or None
        )
        open_image(image, rules)
        others[0].join()
        monkeypatch.setattr(decoders, "_lock", threading.Lock())
        open_image(Image.open(file), rules)
        assert seen == [False, True]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs the files of /proc")
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, preparer: Preparer
) -> None:
    """By its name, as a frame, as an open file, and as a PDF."""
    (tmp_path / "a.pdf").symlink_to("/proc/self/mem")
    name = "/proc/self/mem"
    with Path(name).open("rb") as file:
        for item in (
            {"image": name},
            Path(name),
            {"image": file},
            {"video": [name] * 4},
            {"image": str(tmp_path / "a.pdf")},
        ):
            with pytest.raises(InputError, match="cannot be read") as caught:
                preparer(as_input(item))
            assert "damaged" not in str(caught.value)


class Unready(Image.Image):
    """A picture whose class forgot Pillow's own constructor."""

    def __init__(self) -> None:
        pass


def test_a_picture_with_odd_attributes_is_read_or_refused(rules: ImageRules) -> None:
    """Nothing but an `InputError` comes out of it."""
    with pytest.raises(InputError, match="cannot be decoded"):
        open_image(Unready(), rules)
    image = noise()
    image.filename = 5  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(open_image(image, rules)), np.asarray(noise()))


def animated_png(*, hidden: bool) -> bytes:
    """Returns an animated PNG of one frame, whose still picture is part of it or is not."""
    first = encoded("PNG", noise(8, 8))
    second = encoded("PNG", noise(8, 8, seed=1))

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    def pixels(data: bytes) -> bytes:
        start = data.index(b"IDAT")
        return data[start + 4 : start + 4 + int.from_bytes(data[start - 4 : start], "big")]

    control = chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 10, 0, 0))
    still = chunk(b"IDAT", pixels(first))
    moving = chunk(b"fdAT", struct.pack(">I", 1) + pixels(second))
    body = still + frame + moving if hidden else frame + still
    return first[:33] + control + body + chunk(b"IEND", b"")


def test_a_still_picture_that_is_no_part_of_the_animation_is_refused(rules: ImageRules) -> None:
    """A browser shows the animation's first frame in its place, and so do we if there is one."""
    loaded = Image.open(io.BytesIO(animated_png(hidden=True)))
    loaded.load()
    data = animated_png(hidden=True)
    for source in (data, Image.open(io.BytesIO(data)), loaded):
        with pytest.raises(InputError, match="no part of the animation"):
            open_image(source, rules)
    loaded.seek(1)
    assert np.array_equal(np.asarray(open_image(loaded, rules)), np.asarray(noise(8, 8, seed=1)))
    shown = open_image(animated_png(hidden=False), rules)
    assert np.array_equal(np.asarray(shown), np.asarray(noise(8, 8)))


def test_a_name_that_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, rules: ImageRules
) -> None:
    """A pipe, a device, a link to one, a name that is too long, and one with a null character."""
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.pdf")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for name, message in {
        str(tmp_path / "pipe.png"): "is a pipe",
        str(tmp_path / "pipe.pdf"): "is a pipe",
        str(tmp_path / "link.png"): "is a device",
        "x" * 5000: "give the path of a picture",
        "a\0b.png": "give the path of a picture",
        "": "is empty",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            open_image(name, rules)
        assert len(str(caught.value)) < 300


def sparse(path: Path, head: bytes, size: int) -> Path:
    """Writes a file that is empty behind its first bytes and takes no space."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def test_metadata_is_not_read_without_end(tmp_path: Path, rules: ImageRules) -> None:
    """A sparse file that claims gigabytes before, or in place of, its pixels is refused."""
    png = encoded("PNG")
    exif = png[:33] + (2**31 - 20).to_bytes(4, "big") + b"eXIf"
    webp = b"RIFF" + (2**32 - 20).to_bytes(4, "little") + encoded("WEBP")[8:]
    for name, head in {"a.png": exif, "a.webp": webp}.items():
        with pytest.raises(InputError, match="too much data"):
            open_image(sparse(tmp_path / name, head, 3 << 30), rules)


def jpeg_of_scans(count: int) -> bytes:
    """Returns a progressive JPEG whose last scan is repeated."""
    data = encoded("JPEG", noise(64, 64), progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


def test_a_jpeg_of_a_thousand_scans_is_refused(
    rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scan costs time for the whole picture; without the limit it is decoded."""
    assert open_image(jpeg_of_scans(1), rules).size == (64, 64)
    with pytest.raises(InputError, match="scans"):
        open_image(jpeg_of_scans(1000), rules)
    monkeypatch.setattr(decoding_limits, "MAX_SCANS", 10_000)
    assert open_image(jpeg_of_scans(1000), rules).size == (64, 64)


def test_a_large_picture_with_a_slow_decoder_is_refused(
    rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow decodes some kinds of PPM in Python; without the limit it does."""
    data = encoded("PPM").replace(b"255", b"254", 1)
    monkeypatch.setattr(decoding_limits, "MAX_SLOW_PIXELS", 64 * 48 - 1)
    with pytest.raises(InputError, match="too long to decode"):
        open_image(data, rules)
    assert open_image(encoded("PPM"), rules).size == (64, 48)
    monkeypatch.undo()
    assert open_image(data, rules).size == (64, 48)


def header_of(kind: str, image: Image.Image, **options: Any) -> ImageFile.ImageFile:
    opened = Image.open(io.BytesIO(encoded(kind, image, **options)))
    assert isinstance(opened, ImageFile.ImageFile)
    return opened


@pytest.mark.parametrize(
    ("kind", "mode", "options", "bytes_per_pixel"),
    [
        ("PNG", "RGB", {}, 8),
        ("PNG", "RGBA", {}, 8),
        ("PNG", "L", {}, 5),
        ("PNG", "I;16", {}, 6),
        ("JPEG", "RGB", {"subsampling": 0}, 8),
        ("JPEG", "RGB", {"subsampling": 0, "progressive": True}, 10),
        ("JPEG", "RGB", {"subsampling": 2, "progressive": True}, 8),
        ("JPEG", "CMYK", {"subsampling": 0, "progressive": True}, 12),
        ("WEBP", "RGB", {}, 20),
        ("AVIF", "RGB", {}, 18),
    ],
)
def test_the_memory_of_a_decoder_is_known_from_the_header(
    kind: str, mode: str, options: dict[str, Any], bytes_per_pixel: int
) -> None:
    """In bytes per pixel, measured once as resident memory."""
    if not features.check({"WEBP": "webp", "AVIF": "avif"}.get(kind, "jpg")):
        pytest.skip(f"needs a Pillow with {kind}")
    image = Image.new(mode, (160, 160))
    needed = decoding_limits.decoding_bytes(header_of(kind, image, **options), "a")
    assert needed / 160**2 == pytest.approx(bytes_per_pixel, rel=0.01)


def test_a_picture_whose_decoder_takes_too_much_is_refused_by_its_header(
    rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bytes and as a PIL picture, before anything is decoded; without the limit it is read."""
    data = encoded("JPEG", noise(160, 160), progressive=True, subsampling=0)
    monkeypatch.setattr(decoding_limits, "MAX_DECODING_BYTES", 9 * 160**2)
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(InputError, match=r"takes about .* MB"):
            open_image(source, rules)
    monkeypatch.setattr(decoding_limits, "MAX_DECODING_BYTES", 11 * 160**2)
    assert open_image(data, rules).size == (160, 160)


def test_a_huge_webp_is_refused_before_its_canvas_exists(rules: ImageRules) -> None:
    """The size is taken from the first 30 bytes; Pillow would allocate two canvases of it."""
    canvas = bytes(4) + (16_000 - 1).to_bytes(3, "little") + (5_000 - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + (10).to_bytes(4, "little") + canvas
    data = b"RIFF" + len(body).to_bytes(4, "little") + body
    with pytest.raises(InputError, match="takes about 1,600 MB"):
        open_image(data, rules)
