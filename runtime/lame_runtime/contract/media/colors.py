"""Samples of any mode → upright 8-bit RGB, as a browser shows the picture on a white page.

Colors follow a browser where one shows the picture, with one exception: profiles of RGB and gray
pictures are ignored, as by the families' own processors, on whose pictures the models were trained.
CMYK has no meaning without a profile, so an embedded one is applied.

Everything is computed in strips, so that no more than the given picture and the result are in
memory.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, features

from lame_runtime.contract.media.transparency import check_transparency
from lame_runtime.errors import InputError

STRIP_PIXELS = 1 << 20
"""Number of pixels that are converted at a time."""
_ORIENTATION = 0x0112
"""EXIF tag."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turn that makes a picture of each EXIF orientation upright."""
_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_EIGHT_BITS = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"}
)
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_TIFF_BITS, _TIFF_MEANING, _TIFF_SAMPLE_FORMAT = 258, 262, 339


def check_samples(image: Image.Image, name: str) -> None:
    """Checks that a picture's samples have a meaning, which its header tells.

    Raises:
        InputError: the samples have no fixed range (32 bits, floats, 12 bits, signed), or a mode
            that is not converted to RGB, or the transparent color is none.
    """
    mode, remedy = image.mode, "convert the picture to 8 or 16 bits"
    if mode == "F":
        raise InputError(f"{name}: 32-bit float samples have no fixed range; {remedy}")
    # of PGM, Pillow makes 32-bit samples in the range of 16 bits
    if mode == "I" and image.format != "PPM":
        raise InputError(f"{name}: 32-bit integer samples (mode I) have no fixed range; {remedy}")
    if mode not in _EIGHT_BITS | _SIXTEEN_BITS | {"I"}:
        raise InputError(f"{name}: pictures of the mode {mode} are not read; convert it to RGB")
    check_transparency(image, name)
    # tags of a TIFF; Pillow hands these samples out as if they were ordinary ones
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if not tags:
        return
    if any(value not in (1, 4) for value in _values(tags.get(_TIFF_SAMPLE_FORMAT, 1))):
        raise InputError(f"{name}: the TIFF's samples are signed or floats; {remedy}")
    if mode in _SIXTEEN_BITS and (
        _values(tags.get(_TIFF_BITS, 16)) != (16,) or tags.get(_TIFF_MEANING) == 0
    ):
        raise InputError(
            f"{name}: the TIFF's samples do not span 16 bits from black to white; {remedy}"
        )


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Returns a loaded picture as upright RGB: the picture itself if it is that already.

    Raises:
        InputError: a CMYK picture has a profile, and Pillow was built without color management.
    """
    turn = _turn(image)
    if turn is None and image.mode == "RGB" and not image.has_transparency_data:
        return image
    width, height = image.size
    cmyk = _cmyk_transform(image, name) if image.mode == "CMYK" else None
    shown_box = _first_frame_box(image)
    swaps = turn is not None and turn in (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
    result = Image.new("RGB", (height, width) if swaps else (width, height))
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _rgb(image.crop((0, top, width, bottom)), cmyk)
        if shown_box is not None:
            strip = _on_white(strip, top, shown_box)
        if turn is not None:
            strip = strip.transpose(turn)
        result.paste(strip, _place(turn, top, height - bottom))
    return result


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Returns the turn that makes a picture upright; None without one, or with damaged EXIF data,
    which a browser ignores, too.
    """
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    # of damaged data, Pillow raises SyntaxError, ValueError, struct.error, OSError, …
    except Exception:
        return None


def _rgb(image: Image.Image, cmyk: Any) -> Image.Image:
    """Returns a strip as RGB; transparency lies over white."""
    if image.mode == "I" or image.mode in _SIXTEEN_BITS:
        # Pillow's own conversion would clip 16-bit samples at 255 instead of scaling them
        samples = np.asarray(image).astype(np.int64)
        gray = (np.clip(samples, 0, 65535) // 257).astype(np.uint8)
        key = image.info.get("transparency")
        if isinstance(key, int):
            gray[samples == key] = 255
        return Image.fromarray(gray).convert("RGB")
    if cmyk is not None:
        from PIL import ImageCms

        converted = ImageCms.applyTransform(image, cmyk)
        assert converted is not None
        return converted
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.has_transparency_data:
        # dropping the alpha channel would show whatever color transparent pixels hide
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _place(turn: Image.Transpose | None, above: int, below: int) -> tuple[int, int]:
    """Returns where a turned strip belongs (x, y).

    Args:
        turn: the turn.
        above: number of rows above the strip, before turning.
        below: number of rows below it.
    """
    places = {
        Image.Transpose.ROTATE_180: (0, below),
        Image.Transpose.FLIP_TOP_BOTTOM: (0, below),
        Image.Transpose.TRANSPOSE: (above, 0),
        Image.Transpose.ROTATE_90: (above, 0),
        Image.Transpose.ROTATE_270: (below, 0),
        Image.Transpose.TRANSVERSE: (below, 0),
    }
    return (0, above) if turn is None else places.get(turn, (0, above))


def _first_frame_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Returns the part of a GIF that its first frame covers; None if it covers everything.

    A browser shows nothing around it, but Pillow fills it with the first color of the palette.
    """
    box = getattr(image, "dispose_extent", None) if image.format == "GIF" else None
    if box is None or image.tell() != 0 or tuple(box) == (0, 0, *image.size):
        return None
    left, upper, right, lower = box
    return left, upper, right, lower


def _on_white(strip: Image.Image, top: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Returns a strip that begins at row `top`, with white around the box."""
    left, upper, right, lower = box
    inside = (left, max(upper - top, 0), right, min(lower - top, strip.height))
    white = Image.new("RGB", strip.size, "white")
    if inside[1] < inside[3]:
        white.paste(strip.crop(inside), inside)
    return white


def _cmyk_transform(image: Image.Image, name: str) -> Any:
    """Returns the transform of an embedded profile to sRGB.

    None without a profile, or with one that cannot be used: RGB is then (1 - ink) × (1 - black), as
    in a browser.
    """
    profile = image.info.get("icc_profile")
    # bytes 16 to 19 of a profile name its color space
    if not isinstance(profile, bytes) or profile[16:20] != b"CMYK":
        return None
    if not features.check("littlecms2"):
        raise InputError(
            f"{name}: CMYK with a color profile needs a Pillow with LittleCMS; convert it to sRGB"
        )
    from PIL import ImageCms  # deferred, because few pictures need it

    # Browsers compensate no black point. LittleCMS does so whenever both profiles are of version 4,
    # or the target is, so sRGB is declared as version 2; its content is the same.
    target = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    target[8] = 2
    try:
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(io.BytesIO(bytes(target))),
            "CMYK",
            "RGB",
            renderingIntent=ImageCms.Intent.PERCEPTUAL,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
