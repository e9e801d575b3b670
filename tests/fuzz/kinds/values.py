"""Python expressions for odd values.

A case cannot hold a picture, a NumPy scalar or a list that is nested 5,000 times, so cases hold
expressions, which the worker evaluates with the names of `namespace`. They are also easy to read.
"""

from __future__ import annotations

import fractions
import io
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

TEXTS = (
    "seven", "Ünïcödé", "数字を足すと十五", "אבגד הוזח", "مرحبا بالعالم", "नमस्ते", "🏳️‍🌈👩‍👩‍👧‍👦",
    "e\u0301\u0300\u0302", "\u202eright to left", "\x00", "\x1b[31mred", "a\nb\r\nc\u2028d", " ",
    "\t", "", "\ufeffbom", "\ud800", "half \udc9f emoji", "<|image_pad|>", "<|im_start|>",
    "<|vision_start|><|image_pad|><|vision_end|>", "<|endoftext|>", "http://127.0.0.1/a.png",
    "https://127.0.0.1:1/a.mp4", "data:image/png;base64,AAAA", "data:,", "file:///etc/passwd",
    "12:30:05.mp4", "concat:a|b", "a.pdf#page=0", "a.pdf#page=99999999999", "%s%n{0}{}",
    "../../x.png", "~/x.png", "$HOME", "nul\0.png", ".", "/", "\\\\server\\share", "İ", "ß", "ﬀ",
    "\u0000\u0001\u0002", "\uffff", "\U0010ffff", "ｆｕｌｌ", "a" * 300, "字" * 300, "🙂" * 120,
)  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "2", "3", "True", "False", "None", "2**31", "2**63", "10**400", "-10**400",
    "0.5", "2.0", "64.0", "float('nan')", "float('inf')", "-0.0", "1e308", "np.int64(4)",
    "np.int8(-1)", "np.uint64(2**63)", "np.float32(2)", "np.float64('nan')", "np.bool_(True)",
    "np.array(4)", "np.array([4])", "np.array(4.5)", "Fraction(4, 1)", "Fraction(1, 3)", "'4'",
    "'4' * 5000", "[4]", "(4,)", "{}", "b'4'", "object()", "4j", "int", "lambda: 4",
    "np.datetime64('now')", "Decimal('4')", "Decimal('NaN')", "Odd()",
)  # fmt: skip
OBJECTS = (
    "b''", "b'abc'", "bytearray(b'x')", "memoryview(b'x')", "5", "5.5", "True", "object()", "int",
    "{}", "[]", "()", "set()", "{1}", "range(3)", "iter([])", "nested(5000)", "nested_dict(2000)",
    "Odd()", "np.zeros(3)", "np.zeros((4, 4, 3), np.uint8)", "np.zeros((4, 4, 3))",
    "np.zeros((0, 4, 3), np.uint8)", "np.array('a')", "np.array(['a'], object)", "BytesIO(PNG)",
    "BytesIO(b'')", "BytesIO(PNG[:50])", "picture('RGB', 8, 8)", "picture('RGBA', 9, 5)",
    "picture('I;16', 5, 5)", "picture('F', 5, 5)", "picture('1', 1, 1)", "picture('CMYK', 5, 7)",
    "picture('P', 5, 7)", "picture('La', 5, 5)", "picture('PA', 5, 5)", "picture('HSV', 5, 5)",
    "picture('RGB', 1, 4000)", "picture('RGB', 0, 0)", "closed_picture()", "unloaded_picture()",
    "Path('missing.png')", "Path('.')", "Path('')", "Path('nul\\0')", "PurePosixPath('a.png')",
    "Path('pipe.png')", "Path('pipe.mp4')", "Path('/dev/null')", "Path('good.png')",
    "Path('good.mp4')", "Path('good.pdf')", "Path('good.pdf#page=1')", "'good.png'", "'good.mp4'",
    "'good.pdf'", "'good.pdf#page=7'", "PNG", "MP4", "MP4[:200]", "PDF", "'pipe.png'",
    "Input('a')", "Input(5)", "Input(content=('a', 5))", "Input(content=(Picture(5),))",
    "Input(content=(Video(5),))", "Input(content=(Video('good.mp4', -1.0),))",
    "Input(content=(Picture('good.png'), 'b'))", "Picture('good.png')",
)  # fmt: skip
KEYS = ("text", "image", "video", "content", "instruction", "fps", "texts", "Image", "", 5, None)


def text(random: Random) -> str:
    """Returns a text of one or a few pieces."""
    if random.random() < 0.1:
        points = [random.randrange(0x110000) for _ in range(random.choice((1, 5, 60)))]
        return "".join(map(chr, points))
    return "".join(random.choice(TEXTS) for _ in range(random.choice((1, 1, 2, 5))))


def value(random: Random, depth: int = 2) -> str:
    """Returns the expression of an input or of a part of one."""
    choice = random.random()
    if choice < 0.35 or depth == 0:
        return repr(text(random))
    if choice < 0.65:
        return random.choice(OBJECTS)
    if choice < 0.7:
        return random.choice(NUMBERS)
    if choice < 0.78:
        return f"[{', '.join(value(random, depth - 1) for _ in range(random.randrange(4)))}]"
    pairs = (
        f"{random.choice(KEYS)!r}: {value(random, depth - 1)}"
        for _ in range(random.choice((1, 1, 2, 3)))
    )
    return f"{{{', '.join(pairs)}}}"


class Odd:
    """An object that cannot be compared, counted or taken as a truth value, as arrays cannot."""

    def __len__(self) -> int:
        raise TypeError("no length")

    def __bool__(self) -> bool:
        raise ValueError("no truth value")

    def __eq__(self, other: object) -> bool:
        raise ValueError("no comparison")

    __hash__ = None  # type: ignore[assignment]


def nested(levels: int) -> list[Any]:
    """Returns a list inside a list, many times."""
    result: list[Any] = []
    for _ in range(levels):
        result = [result]
    return result


def nested_dict(levels: int) -> dict[str, Any]:
    """Returns `content` inside `content`, many times."""
    result: dict[str, Any] = {"text": "a"}
    for _ in range(levels):
        result = {"content": [result]}
    return result


def namespace() -> dict[str, Any]:
    """Returns the names that expressions may use."""
    from decimal import Decimal

    import numpy as np
    from lame_runtime import EncodeOptions, Encoder, Input, LoadOptions, Picture, Video
    from PIL import Image

    from fuzz.media.pages import write_pdf
    from fuzz.media.pictures import pictures
    from fuzz.media.videos import videos

    png = next(sample.data for sample in pictures() if sample.name == "png RGB")
    mp4 = next((sample.data for sample in videos() if sample.suffix == ".mp4"), videos()[0].data)

    def picture(mode: str, width: int, height: int) -> Image.Image:
        return Image.new(mode, (width, height))

    def unloaded_picture() -> Image.Image:
        return Image.open(io.BytesIO(png))

    def closed_picture() -> Image.Image:
        opened = Image.open(io.BytesIO(png))
        opened.close()
        return opened

    return {
        "np": np,
        "Decimal": Decimal,
        "Fraction": fractions.Fraction,
        "Path": Path,
        "BytesIO": io.BytesIO,
        "PurePosixPath": PurePosixPath,
        "PNG": png,
        "MP4": mp4,
        "PDF": write_pdf(),
        "picture": picture,
        "Odd": Odd,
        "unloaded_picture": unloaded_picture,
        "closed_picture": closed_picture,
        "nested": nested,
        "Video": Video,
        "nested_dict": nested_dict,
        "Input": Input,
        "Picture": Picture,
        "Encoder": Encoder,
        "LoadOptions": LoadOptions,
        "EncodeOptions": EncodeOptions,
    }
