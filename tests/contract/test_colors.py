"""Samples of every mode become what a browser shows, or are refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from lame_runtime.contract import ImageRules, Preparer
from lame_runtime.contract.media import colors, decoders
from lame_runtime.contract.media.images import open_image
from lame_runtime.errors import InputError
from PIL import Image, ImageOps, features


@pytest.fixture(scope="module")
def rules(preparer: Preparer) -> ImageRules:
    return preparer.contract.images


def pixels(source: object, rules: ImageRules) -> np.ndarray:
    return np.asarray(open_image(source, rules))  # type: ignore[arg-type]


def png(bits: int, color: int, rows: list[bytes], width: int, key: bytes) -> bytes:
    """Returns a PNG with a transparent color (tRNS)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", key)
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


TRANSPARENT = {
    "1 bit": (png(1, 0, [b"\x40"], 2, struct.pack(">H", 1)), [0, 255]),
    "2 bits": (png(2, 0, [b"\x60"], 2, struct.pack(">H", 2)), [85, 255]),
    "4 bits": (png(4, 0, [b"\x37"], 2, struct.pack(">H", 7)), [51, 255]),
    "8 bits": (png(8, 0, [b"\x33\x07"], 2, struct.pack(">H", 7)), [51, 255]),
    "16 bits": (
        png(16, 0, [struct.pack(">2H", 30001, 30000)], 2, struct.pack(">H", 30000)),
        [30001 // 257, 255],
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_the_transparent_gray_is_white_at_every_depth(kind: str, rules: ImageRules) -> None:
    """And its neighbor is not; read twice from one PIL picture, too."""
    data, expected = TRANSPARENT[kind]
    assert pixels(data, rules)[0, :, 0].tolist() == expected
    image = Image.open(io.BytesIO(data))
    for _ in range(2):
        assert pixels(image, rules)[0, :, 0].tolist() == expected


def test_sixteen_bit_rgb_with_a_transparent_color_is_refused(rules: ImageRules) -> None:
    """Pillow keeps 8 bits, in which similar colors equal the transparent one."""
    data = png(16, 2, [struct.pack(">3H", 9, 5, 6)], 1, struct.pack(">3H", 9, 5, 6))
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(InputError, match="alpha channel"):
            open_image(source, rules)
    high = png(16, 2, [struct.pack(">3H", 30000, 5, 6)], 1, struct.pack(">3H", 30000, 5, 6))
    loaded = Image.open(io.BytesIO(high))
    loaded.load()
    with pytest.raises(InputError, match="alpha channel"):
        open_image(loaded, rules)


def read_elsewhere(data: bytes) -> list[Image.Image]:
    """Returns a picture as its owner loaded, copied and converted it."""
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    return [loaded, loaded.copy(), loaded.convert("RGB")]


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_a_transparent_gray_that_someone_else_loaded_is_white_or_refused(
    kind: str, rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow forgets that samples had 2 or 4 bits; without the check they stay gray."""
    data, expected = TRANSPARENT[kind]
    # conversion to RGB clips 16 bits, and leaves the number of a bilevel picture as it is
    pictures = read_elsewhere(data)[: 2 if kind in ("1 bit", "16 bits") else 3]
    if kind not in ("2 bits", "4 bits"):
        for picture in pictures:
            assert pixels(picture, rules)[0, :, 0].tolist() == expected
        return
    for picture in pictures:
        with pytest.raises(InputError, match="before its `load`"):
            open_image(picture, rules)
    monkeypatch.setattr(decoders, "require_known_transparency", lambda *_: None)
    assert pixels(pictures[0], rules)[0, 1, 0] != 255


def test_a_small_transparent_color_of_a_loaded_rgb_png_is_refused(rules: ImageRules) -> None:
    """It may have had 16 bits, of which Pillow kept the upper 8; of a file, that is known."""
    deep = png(16, 2, [struct.pack(">6H", 9, 5, 6, 9, 9, 9)], 2, struct.pack(">3H", 9, 5, 6))
    for picture in read_elsewhere(deep):
        with pytest.raises(InputError, match="before its `load`"):
            open_image(picture, rules)
    plain = png(8, 2, [bytes((9, 5, 6, 9, 9, 9))], 2, struct.pack(">3H", 9, 5, 6))
    expected = [[255, 255, 255], [9, 9, 9]]
    lazy = Image.open(io.BytesIO(plain))
    for source in (plain, lazy, lazy, read_elsewhere(plain)[1]):
        assert pixels(source, rules)[0].tolist() == expected
    assert pixels(lazy.copy(), rules)[0].tolist() == expected
    with pytest.raises(InputError, match="before its `load`"):
        open_image(read_elsewhere(plain)[0], rules)


def test_a_transparent_color_that_is_converted_from_a_palette_is_white(rules: ImageRules) -> None:
    """Its samples have had 8 bits all the time."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    assert pixels(image.convert("RGB"), rules)[0].tolist() == [[255, 255, 255], [0, 0, 0]]


@pytest.mark.parametrize(
    ("mode", "key"),
    [
        *(
            ("RGB", key)
            for key in ((), (1, "a", 3), (None,) * 3, (1, 2), (-1, 0, 0), None, 5, b"a")
        ),
        *(("L", key) for key in ((), (1, 2, 3), b"abc", None, "x", -1, True)),
        *(("P", key) for key in ((1, 2, 3), 300, None)),
        ("I;16", b"abc"),
        ("1", "x"),
    ],
)
def test_a_transparent_color_that_is_none_is_refused(
    mode: str, key: object, rules: ImageRules
) -> None:
    """Not as damage, and not by an exception of Python's."""
    image = Image.new(mode, (4, 4))
    image.info["transparency"] = key
    with pytest.raises(InputError, match="is not a color of the mode"):
        open_image(image, rules)


@pytest.mark.parametrize(("photometric", "samples"), [(5, 5), (9, 3), (32845, 3)])
def test_samples_that_pillow_does_not_know_are_not_called_damaged(
    photometric: int, samples: int, rules: ImageRules
) -> None:
    """CMYK with alpha, ICC L*a*b* and LogLuv in a TIFF."""
    with pytest.raises(InputError, match=r"not supported .*; convert it to RGB"):
        open_image(raw_tiff(photometric, samples), rules)


def raw_tiff(photometric: int, samples: int, side: int = 4) -> bytes:
    """Returns a TIFF of samples of 8 bits, all of them 0."""
    entries = {256: side, 257: side, 259: 1, 262: photometric, 277: samples, 278: side}
    size, count = side * side * samples, len(entries) + 3 + (samples > 4)
    bits = 8 + 2 + 12 * count + 4
    entries |= {273: bits + 2 * samples, 279: size} | ({338: 2} if samples > 4 else {})
    directory = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) if tag != 258 else b""
        for tag, value in sorted((entries | {258: 0}).items())
    )
    position = 12 * sorted(entries | {258: 0}).index(258)
    directory = (
        directory[:position] + struct.pack("<HHII", 258, 3, samples, bits) + directory[position:]
    )
    head = b"II*\0" + struct.pack("<IH", 8, count)
    return head + directory + bytes(4) + struct.pack("<H", 8) * samples + bytes(size)


def tiff(samples: np.ndarray, **tags: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "TIFF", tiffinfo={int(k[1:]): v for k, v in tags.items()})
    return buffer.getvalue()


REFUSED: dict[str, Callable[[], object]] = {
    "32-bit integer": lambda: Image.fromarray(np.zeros((2, 2), np.int32)),
    "32-bit integer samples": lambda: tiff(np.zeros((2, 2), np.int32)),
    "32-bit float": lambda: Image.fromarray(np.zeros((2, 2), np.float32)),
    "the mode LAB": lambda: Image.new("LAB", (2, 2)),
    "do not span 16 bits": lambda: tiff(np.zeros((2, 2), np.uint16), t262=0),
    "signed or floats": lambda: tiff(np.zeros((2, 2), np.uint8), t339=2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_samples_without_a_meaning_are_refused_by_name(message: str, rules: ImageRules) -> None:
    """They are not called damaged."""
    with pytest.raises(InputError, match=message) as caught:
        open_image(REFUSED[message](), rules)  # type: ignore[arg-type]
    assert "damaged" not in str(caught.value)


def test_a_portable_graymap_of_16_bits_keeps_its_range(rules: ImageRules) -> None:
    """Pillow makes 32-bit samples of it, but the format says that 65,535 is white."""
    data = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32768, 65535)
    assert pixels(data, rules)[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_every_mode_with_alpha_lies_over_white(mode: str, rules: ImageRules) -> None:
    """Nothing visible is white, premultiplied or not."""
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    route = {"La": "LA", "RGBa": "RGBA"}
    image = (
        image.convert(route.get(mode, mode)) if mode != "PA" else Image.new("PA", (4, 4), (0, 0))
    )
    image = image.convert(mode)
    assert (pixels(image, rules) == 255).all()


def test_a_gif_is_white_where_its_first_frame_does_not_reach(rules: ImageRules) -> None:
    """A browser shows the page there, Pillow the first color of the palette."""
    image = Image.new("P", (6, 6), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(buffer := io.BytesIO(), "GIF", optimize=False)
    data = bytearray(buffer.getvalue())
    # a wider and higher screen than the frame
    data[6:10] = struct.pack("<2H", 10, 8)
    shown = pixels(bytes(data), rules)
    assert shown.shape == (8, 10, 3)
    assert (shown[:6, :6] == [0, 0, 255]).all()
    assert (shown[6:] == 255).all()
    assert (shown[:, 6:] == 255).all()


def random_image(mode: str, width: int, height: int) -> Image.Image:
    draw = np.random.default_rng(1)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 65536, (height, width), dtype=np.uint16))
    base = Image.fromarray(draw.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    if mode == "P":
        image = base.convert("RGB").quantize(64)
        image.info["transparency"] = bytes(draw.integers(0, 256, 64, dtype=np.uint8))
        return image
    return base if mode == "RGBA" else base.convert("RGB" if mode == "CMYK" else mode).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_strips_give_exactly_the_whole_picture(
    mode: str, orientation: int, rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture converted and turned in strips equals one converted and turned at once."""
    image = random_image(mode, 37, 23)
    image.getexif()[0x0112] = orientation
    monkeypatch.setattr(colors, "STRIP_PIXELS", 37 * 1000)
    image.getexif()[0x0112] = 1
    whole = open_image(image, rules).copy()
    whole.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(whole))
    image.getexif()[0x0112] = orientation
    monkeypatch.setattr(colors, "STRIP_PIXELS", 37 * 5)
    assert np.array_equal(pixels(image, rules), expected)


def cmyk_profile(darkest: float = 20.0) -> bytes:
    """Returns an ICC profile in which a black ink has the lightness `darkest` of CIELAB."""
    corners = np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).reshape(4, -1).T
    table = b""
    for *inks, black in corners:
        rgb = (1 - 0.9 * np.array(inks)) * (1 - black)
        lightness = darkest + (100 - darkest) * rgb.mean()
        table += bytes(
            (
                round(lightness * 2.55),
                round(128 + 60 * (rgb[0] - rgb[1])),
                round(128 + 60 * (rgb.mean() - rgb[2])),
            )
        )
    ramp = bytes(range(256))
    unit = b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + unit + ramp * 4 + table + ramp * 3
    white = struct.pack(">3i", 63190, 65536, 54061)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"a\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"A2B0": lut,
    }
    index, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        index += name + struct.pack(">2I", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI", 128 + len(index) + len(body), b"none", 0x02100000)
    header += b"prtrCMYKLab " + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp"
    header += bytes(28) + white
    return header.ljust(128, b"\0") + index + body


def test_cmyk_without_a_profile_is_what_a_browser_shows(rules: ImageRules) -> None:
    """(1 - ink) × (1 - black), from JPEG (stored inverted) and TIFF."""
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [51, 102, 0, 51]]], np.uint8)
    image = Image.fromarray(inks, "CMYK")
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [163, 122, 204]]
    image.save(buffer := io.BytesIO(), "TIFF")
    for source in (image, buffer.getvalue()):
        assert np.abs(pixels(source, rules)[0].astype(int) - expected).max() <= 1
    wide = image.resize((64, 16), Image.Resampling.NEAREST)
    wide.save(buffer := io.BytesIO(), "JPEG", quality=100, subsampling=0)
    assert np.abs(pixels(buffer.getvalue(), rules)[8, 8::16].astype(int) - expected).max() <= 3


@pytest.mark.skipif(not features.check("littlecms2"), reason="needs a Pillow with LittleCMS")
def test_cmyk_with_a_profile_is_what_a_browser_shows(rules: ImageRules) -> None:
    """The profile's perceptual table without black point compensation: ink is not blacker than it
    is. A lightness of 20 is the gray 48 of sRGB, computed by hand.
    """
    image = Image.new("CMYK", (64, 16), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (32, 0, 64, 16))
    for kind in ("JPEG", "TIFF"):
        image.save(buffer := io.BytesIO(), kind, icc_profile=cmyk_profile())
        shown = pixels(buffer.getvalue(), rules)
        assert np.abs(shown[8, 8].astype(int) - 48).max() <= 1
        assert np.abs(shown[8, 56].astype(int) - 255).max() <= 1
    # the control: without the profile, black ink is black
    assert pixels(image, rules)[8, 8].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "profile", [b"junk", cmyk_profile()[:300], bytes(16) + b"RGB " + bytes(200)]
)
def test_a_profile_that_cannot_be_used_counts_as_none(profile: bytes, rules: ImageRules) -> None:
    """As in a browser."""
    image = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    image.info["icc_profile"] = profile
    assert (pixels(image, rules) == 0).all()


def test_without_color_management_a_profile_is_refused(
    rules: ImageRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ignoring it would give other colors without a word."""
    image = Image.new("CMYK", (4, 4))
    image.info["icc_profile"] = cmyk_profile()
    monkeypatch.setattr(colors.features, "check", lambda _: False)
    with pytest.raises(InputError, match="LittleCMS"):
        open_image(image, rules)
