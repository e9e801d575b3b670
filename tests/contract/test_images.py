"""Pictures become what transformers' PIL processor makes of them, or one clear line of an error."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lame_runtime.contract import ImageRules, Preparer
from lame_runtime.contract.media.images import (
    frame_patches,
    open_image,
    resized_pixels,
    smart_resize,
)
from lame_runtime.errors import InputError
from PIL import Image, ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SIZES = [
    (1, 1),
    (1, 60),
    (27, 29),
    (28, 28),
    (56, 56),
    (57, 55),
    (100, 101),
    (320, 240),
    (33, 3000),
    (3000, 33),
    (640, 480),
    (199, 1),
    (1600, 1200),
]


def random_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def our_patches(image: Image.Image, rules: ImageRules) -> np.ndarray:
    return frame_patches(
        resized_pixels(open_image(image, rules), rules)[None, None], rules, rules.mean, rules.std
    )[0]


def their_processor(rules: ImageRules) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=rules.patch_size,
        size={"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels},
    )


@pytest.fixture(scope="module")
def rules(preparer: Preparer) -> ImageRules:
    return preparer.contract.images


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", [14, 7])
def test_patches_are_exactly_those_of_the_pil_processor(
    size: tuple[int, int], patch: int, rules: ImageRules
) -> None:
    """They are equal bit for bit, from one pixel to panoramas, for two patch sizes."""
    rules = ImageRules(**{**rules.__dict__, "patch_size": patch})
    image = random_picture(*size)
    theirs = their_processor(rules)(image, return_tensors="np")
    ours = our_patches(image, rules)
    assert len(ours) == theirs["image_grid_thw"][0].prod()
    assert np.array_equal(ours, theirs["pixel_values"])


def test_sizes_follow_the_processor_on_a_thousand_shapes(rules: ImageRules) -> None:
    """The resize rule alone agrees on random shapes up to the pixel budget and beyond."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    rng = np.random.default_rng(0)
    for _ in range(1000):
        height, width = (int(2**x) for x in rng.uniform(0, 13.5, 2))
        if max(height, width) <= 200 * min(height, width):
            assert smart_resize(height, width, rules) == theirs(
                height, width, 28, rules.min_pixels, rules.max_pixels
            )


def test_swapped_patches_would_be_seen(rules: ImageRules) -> None:
    """The control: the same patches in another order differ."""
    image = random_picture(320, 240)
    patches = our_patches(image, rules)
    patches[[0, 1]] = patches[[1, 0]]
    assert not np.array_equal(
        patches, their_processor(rules)(image, return_tensors="np")["pixel_values"]
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, rules: ImageRules) -> None:
    """A rotated phone photo embeds as the upright one."""
    image = random_picture(60, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    assert np.array_equal(np.asarray(open_image(buffer.getvalue(), rules)), np.asarray(expected))
    assert (expected.size == image.size) == (orientation < 5)


def test_transparency_lies_over_white(rules: ImageRules) -> None:
    """Fully transparent pixels are white whatever color they hide; others are mixed with white."""
    image = Image.new("RGBA", (4, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    pixels = np.asarray(open_image(image, rules))[0]
    assert pixels[0].tolist() == [255, 255, 255]
    assert pixels[1].tolist() == [255, 0, 0]
    assert abs(int(pixels[2][0]) - 127) <= 1


def test_a_palette_with_a_transparent_entry_lies_over_white(rules: ImageRules) -> None:
    """GIFs and 8-bit PNGs mark one color of the palette as transparent."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    assert np.asarray(open_image(image, rules))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_sixteen_bit_gray_keeps_its_range(tmp_path: Path, rules: ImageRules) -> None:
    """65,535 is white and half of it gray, not clipped."""
    samples = np.array([[0, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(samples).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png", rules))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LA"])
def test_other_modes_become_rgb(mode: str, rules: ImageRules) -> None:
    """Bilevel, gray, CMYK, YCbCr and gray with alpha become RGB."""
    assert open_image(random_picture(8, 8).convert(mode), rules).mode == "RGB"


def truncated(format: str, size: int) -> bytes:
    """Returns the first bytes of an encoded picture."""
    buffer = io.BytesIO()
    random_picture(80, 80).save(buffer, format)
    return buffer.getvalue()[:size]


def bilevel(path: Path, side: int) -> Path:
    """Writes a square picture of one bit per pixel, which compresses to almost nothing."""
    Image.new("1", (side, side)).save(path)
    return path


def written(path: Path, content: bytes) -> Path:
    """Writes a file and returns its path."""
    path.write_bytes(content)
    return path


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: folder / "missing.png", "no such file"),
    "text": (lambda folder: written(folder / "a.png", b"not a picture"), "not a picture"),
    "empty": (lambda folder: written(folder / "a.png", b""), "not a picture"),
    "folder": (lambda folder: folder, "is a folder"),
    "truncated": (
        lambda folder: written(folder / "a.png", truncated("PNG", 2000)),
        "truncated or damaged",
    ),
    "truncated jpeg": (
        lambda folder: written(folder / "a.png", truncated("JPEG", 1500)),
        "truncated or damaged",
    ),
    "no pixels": (lambda folder: Image.new("RGB", (0, 5)), "has no pixels"),
    "bomb": (lambda folder: bilevel(folder / "a.png", 10_000), "the limit is"),
    "huge bomb": (lambda folder: bilevel(folder / "a.png", 20_000), "the limit is"),
    "strip": (lambda folder: Image.new("RGB", (401, 2)), "crop it"),
    "float": (lambda folder: Image.new("F", (4, 4)), "convert the picture"),
}
"""By name: a function that makes the picture in a folder, and a part of the message."""


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_picture_that_cannot_be_read_is_named_with_a_remedy(
    kind: str, tmp_path: Path, rules: ImageRules
) -> None:
    """The error is one line and no foreign exception."""
    make, message = UNREADABLE[kind]
    with pytest.raises(InputError, match=message) as caught:
        open_image(make(tmp_path), rules)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
