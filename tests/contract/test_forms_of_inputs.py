"""Pictures in memory, open files, `data:` URIs, URLs and numbers are taken as users have them."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from lame_runtime import Encoder
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.contract.media import images
from lame_runtime.contract.media.images import open_image
from lame_runtime.contract.prompts import Input, Picture, Video
from lame_runtime.errors import InputError
from lame_runtime.files import in_memory, urls
from lame_runtime.inputs import as_input, is_single
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def png() -> bytes:
    Image.fromarray(PIXELS).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


DATA = png()


def after_writing() -> io.BytesIO:
    buffer = io.BytesIO()
    buffer.write(DATA)
    return buffer


class OtherFile:
    """A file of another library, which shares no base class with those of `io`."""

    def __init__(self) -> None:
        self._file = io.BytesIO(DATA)

    def __getattr__(self, name: str) -> Any:
        if name in ("read", "seek", "tell"):
            return getattr(self._file, name)
        raise AttributeError(name)


FORMS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: DATA,
    "bytearray": lambda: bytearray(DATA),
    "memoryview": lambda: memoryview(DATA),
    "part of a memoryview": lambda: memoryview(b"ab" + DATA + b"cd")[2:-2],
    "BytesIO": lambda: io.BytesIO(DATA),
    "BytesIO after writing": after_writing,
    "BufferedReader": lambda: io.BufferedReader(io.BytesIO(DATA)),  # type: ignore[arg-type]
    "file of another library": OtherFile,
    "array": lambda: PIXELS,
    "array that is not contiguous": lambda: np.ascontiguousarray(PIXELS[:, ::-1])[:, ::-1],
    "PIL picture": lambda: Image.fromarray(PIXELS),
    "base64 URI": lambda: "data:image/png;base64," + base64.b64encode(DATA).decode(),
}


def patches(item: Any, preparer: Preparer) -> np.ndarray:
    (visual,) = preparer(as_input(item)).visuals
    return visual.frames


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_memory_is_the_same_picture_in_every_form(
    form: str, preparer: Preparer
) -> None:
    """As an `image`, in a list, in `content`, as an `Input`, and alone where it is no text."""
    expected = patches({"image": DATA}, preparer)
    value = FORMS[form]()
    items: list[Any] = [
        {"image": value},
        {"image": [value]},
        {"content": [{"image": value}]},
        Input(image=value),
        Input(content=(Picture(value),)),
    ]
    items += [] if isinstance(value, str) else [value, {"content": [value]}]
    for item in items:
        assert np.array_equal(patches(item, preparer), expected)


@pytest.mark.parametrize("form", [form for form in FORMS if "URI" not in form])
def test_a_picture_alone_is_one_input(form: str) -> None:
    """It is not iterated over: neither its bytes, nor its lines, nor its rows."""
    assert is_single(FORMS[form]())


def test_iterables_of_inputs_stay_iterables() -> None:
    """Lists, generators, text files, arrays of texts and of pictures."""
    iterables = (
        ["a"],
        (text for text in "ab"),
        io.StringIO("a\nb"),
        np.array(["a", "b"]),
        PIXELS[None],
    )
    assert not any(is_single(item) for item in iterables)


def test_an_encoder_takes_bytes_and_batches_of_pictures(preparer: Preparer) -> None:
    """One array of four dimensions is a batch of pictures."""
    encoder = Encoder(preparer, FakeBackend(dim=preparer.contract.dim))
    one = encoder.encode(DATA)
    assert one.shape == (1, encoder.dim)
    assert np.allclose(encoder.encode(np.stack([PIXELS, PIXELS])), np.concatenate([one, one]))
    assert np.allclose(encoder.encode(list(np.stack([PIXELS]))), one)


def test_a_file_is_left_where_it_was(tmp_path: Path) -> None:
    """So that it can be given twice, and read on by its owner."""
    (tmp_path / "a.png").write_bytes(DATA)
    with (tmp_path / "a.png").open("rb") as file:
        file.seek(7)
        for _ in range(2):
            assert as_input({"image": file}).content == (Picture(DATA),)
        assert file.tell() == 7


def pipe() -> Any:
    reader, writer = os.pipe()
    os.close(writer)
    return os.fdopen(reader, "rb")


def closed() -> Any:
    file = io.BytesIO(DATA)
    file.close()
    return file


class Endless(OtherFile):
    """A file that never ends."""

    def __getattr__(self, name: str) -> Any:
        return bytes if name == "read" else super().__getattr__(name)


def test_a_stream_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, a device, a closed or an endless file; nothing waits."""
    monkeypatch.setattr(in_memory, "MAX_STREAM_BYTES", 1000)
    with Path(os.devnull).open("rb") as device, pipe() as end:
        for file, message in (
            (end, "not a regular file"),
            (device, "not a regular file"),
            (closed(), "cannot be read"),
            (Endless(), "more than 1,000 bytes"),
        ):
            with pytest.raises(InputError, match=message):
                as_input({"image": file})
            with pytest.raises(InputError, match=message):
                as_input({"video": file})


@pytest.mark.parametrize(
    "item",
    [
        np.array("a"),
        np.zeros((4, 4)),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), object),
        {"image": np.zeros((2, 4, 4, 3), np.uint8)},
        {"image": 5},
        {"image": ["a.png", None]},
        {"content": [5]},
        {"content": [{"image": object()}]},
        5,
        object(),
        Input(image=5),  # type: ignore[arg-type]
        Input(content=(Picture(5),)),  # type: ignore[arg-type]
        Input(video=Video(5)),  # type: ignore[arg-type]
        Input(video=Video([5])),  # type: ignore[list-item]
    ],
)
def test_an_object_that_is_no_input_is_refused_with_a_hint(item: Any, preparer: Preparer) -> None:
    """The message is one line and names a form that is taken."""
    with pytest.raises(InputError, match=r"bytes|path") as caught:
        preparer(as_input(item))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


HUGE = np.broadcast_to(PIXELS[:1, :1], (100_000, 100_000, 3))
STRIP = np.broadcast_to(PIXELS[:1, :1], (1, 10**9, 3))


@pytest.mark.parametrize("array", [HUGE, STRIP], ids=["huge", "strip"])
@pytest.mark.parametrize("key", ["alone", "image", "content", "frames", "input"])
def test_an_array_is_measured_before_it_is_copied(
    array: np.ndarray, key: str, preparer: Preparer
) -> None:
    """Views of three bytes stand for gigabytes."""
    items = {
        "alone": array,
        "image": {"image": array},
        "content": {"content": [array]},
        "frames": {"video": [array] * 4},
        "input": Input(image=array),  # type: ignore[arg-type]
    }
    with pytest.raises(InputError, match=r"the limit is|times the other"):
        preparer(as_input(items[key]))


def test_without_the_measure_an_array_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the copy is what fails then, or takes the memory."""
    copied = []
    monkeypatch.setattr(images, "array_picture", copied.append)
    with pytest.raises(InputError):
        as_input(HUGE)
    assert not copied
    monkeypatch.setattr(images, "check_array", lambda _: None)
    as_input(HUGE)
    assert len(copied) == 1


class Odd(os.PathLike[str]):
    """A path whose class has a mistake."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def __fspath__(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("answer", [5, None, RuntimeError("a\nb")], ids=["int", "None", "raises"])
def test_an_object_that_gives_no_path_is_refused_in_every_place(
    answer: object, preparer: Preparer
) -> None:
    """Its own exception would not name the input."""
    odd: Any = Odd(answer)
    for item in (
        odd,
        {"image": odd},
        {"image": [odd]},
        {"content": [odd]},
        {"video": odd},
        {"video": [odd] * 4},
        Input(image=odd),
        Input(video=Video(odd)),
    ):
        with pytest.raises(InputError, match=r"type Odd gives no path .*; give a str or a Path"):
            preparer(as_input(item))
    with pytest.raises(InputError, match="type Odd gives no path"):
        open_image(odd, preparer.contract.images)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_a_mistake(name: str) -> None:
    """It is not taken for a missing picture, beside a text or alone."""
    for item in (
        {"image": name, "text": "a"},
        {"image": [name]},
        {"video": name, "text": "a"},
        {"video": [name]},
        {"content": ["a", {"image": name}]},
        Input("a", image=name),
    ):
        with pytest.raises(InputError, match="is empty"):
            as_input(item)  # type: ignore[arg-type]
    assert as_input({"image": None, "text": "a"}).modality == "text"
    assert as_input({"image": [], "text": "a"}).modality == "text"


@pytest.mark.parametrize(
    "fps",
    [
        2,
        2.5,
        np.int64(2),
        np.float32(2.5),
        np.uint8(3),
        np.array(2),
        Fraction(30000, 1001),
        Decimal("2.5"),
    ],
)
def test_any_number_is_a_rate(fps: Any) -> None:
    """NumPy's, fractions, decimals, and arrays without a dimension."""
    (video,) = as_input({"video": [PIXELS], "fps": fps}).content
    assert isinstance(video, Video)
    assert video.fps == float(fps)
    assert type(video.fps) is float
    assert as_input(Input(video=Video((PIXELS,), fps))).video.fps == float(fps)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "fps",
    [
        True,
        np.True_,
        np.array(True),
        "2",
        [2],
        np.array([2]),
        2j,
        float("nan"),
        np.float32("nan"),
        Decimal("nan"),
        Decimal("snan"),
        float("inf"),
        10**400,
        Fraction(1, 10**400),
        0,
        -1,
    ],
)
def test_what_is_no_rate_is_refused(fps: Any) -> None:
    """Bools, texts, lists, complex numbers, NaN, and rates out of range."""
    for item in ({"video": [PIXELS], "fps": fps}, Input(video=Video((PIXELS,), fps))):
        with pytest.raises(InputError, match="`fps` must"):
            as_input(item)  # type: ignore[arg-type]


URLS = [
    "https://127.0.0.1/a.png",
    "HTTP://127.0.0.1/a.png",
    "ftp://host/a.png",
    "file:///a.png",
    "s3://bucket/a.png",
    "gs://bucket/a.png",
    "hf://datasets/x/a.png",
    "abfss://a@b/c.png",
    " https://127.0.0.1/a.png",
    "blob:https://127.0.0.1/x",
    "https://127.0.0.1/a.pdf",
    "https://127.0.0.1/a.pdf#page=2",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_refused_as_it_was_written(url: str, preparer: Preparer, tmp_path: Path) -> None:
    """In every place of an input, below a root too, and by the function that opens pictures."""
    for key in ("image", "video"):
        for item in ({key: url}, {key: [url]}, {"content": [{key: url}]}):
            for root in (None, tmp_path):
                with pytest.raises(InputError, match="nothing is downloaded") as caught:
                    as_input(item, root)
                assert url in str(caught.value)
    with pytest.raises(InputError, match="nothing is downloaded"):
        open_image(url, preparer.contract.images)


def test_a_url_that_became_a_path_is_recognized(preparer: Preparer) -> None:
    """`Path` makes one slash of two."""
    with pytest.raises(InputError, match="nothing is downloaded"):
        preparer(as_input(Path("https://127.0.0.1/a.png")))


@pytest.mark.parametrize(
    "name", ["12:30:05.png", "C:x.png", "file:a.png", "data:a.png", "data:a,b.png", "a:b/c.png"]
)
def test_a_name_with_a_colon_is_a_name(name: str, tmp_path: Path, preparer: Preparer) -> None:
    """It is read, below a root and as a path."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DATA)
    expected = patches({"image": DATA}, preparer)
    assert np.array_equal(patches(json.loads(json.dumps({"image": str(path)})), preparer), expected)
    (visual,) = preparer(as_input({"image": name}, tmp_path)).visuals
    assert np.array_equal(visual.frames, expected)


def test_a_drive_letter_is_no_scheme() -> None:
    """Windows takes both slashes."""
    assert not urls.is_url("C:\\a.png")
    assert not urls.is_url("C:/a.png")
    assert not urls.is_url("C://a.png")


def test_a_data_uri_is_decoded_as_a_browser_does(preparer: Preparer, tmp_path: Path) -> None:
    """In base64 or with percent escapes, with any media type or none, and below a root."""
    text = base64.b64encode(DATA).decode()
    broken = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    expected = patches({"image": DATA}, preparer)
    for uri in (
        f"data:image/png;base64,{text}",
        f"DATA:image/png;BASE64,{text}",
        f"data:;base64,{text}",
        f"data:image/png;charset=utf-8;base64,{text}",
        f"data:image/png;base64,{broken}",
        f"data:image/png;base64,{text.rstrip('=')}",
        f"data:image/png;base64,{text.replace('+', '%2B').replace('=', '%3D')}",
        f"data:image/png;base64,{text}#fragment",
        f"data:image/png,{quote_from_bytes(DATA)}",
    ):
        assert np.array_equal(patches({"image": uri}, preparer), expected)
        (visual,) = preparer(as_input({"image": uri}, tmp_path)).visuals
        assert np.array_equal(visual.frames, expected)
        assert np.array_equal(np.asarray(open_image(uri, preparer.contract.images)), PIXELS)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:image/png;base64,@@@@", "cannot be decoded"),
        ("data:image/png;base64,ÄÖ", "cannot be decoded"),
        ("data:image/png;base64,A", "cannot be decoded"),
        ("data:image/png;base64,", "not a picture"),
        ("data:text/plain,hello", "not a picture"),
        ("data:application/pdf;base64,AAAA#page=2", "cannot be chosen"),
    ],
)
def test_a_data_uri_that_holds_no_picture_is_refused(
    uri: str, message: str, preparer: Preparer
) -> None:
    """In one short line."""
    with pytest.raises(InputError, match=message) as caught:
        preparer(as_input({"image": uri}))
    assert len(str(caught.value)) < 300


def test_a_data_uri_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Escapes take more memory, so their bound is lower; without the bound, both are decoded."""
    plain, escaped = "data:image/png;base64," + "A" * 4000, "data:image/png," + "%41" * 1000
    monkeypatch.setattr(urls, "MAX_DATA_CHARACTERS", 4000)
    monkeypatch.setattr(urls, "MAX_ESCAPED_CHARACTERS", 2000)
    for uri in (plain, escaped):
        with pytest.raises(InputError, match="the limit is"):
            as_input({"image": uri})
    monkeypatch.undo()
    assert as_input({"image": plain}).content == (Picture(bytes(3000)),)
    assert as_input({"image": escaped}).content == (Picture(b"A" * 1000),)


@pytest.mark.parametrize("key", ["image", "video", "content"])
def test_a_message_repeats_at_most_eighty_characters(key: str, preparer: Preparer) -> None:
    """A long name, a long key and a long name in a list are cut."""
    long = "y" * 3000
    items: list[Any] = [
        {key: long},
        {key: [long]},
        {long: 1},
        {"content": [{long: 1}]},
        {"image": f"{long}.pdf#page={'9' * 5000}"},
        {"image": "https://" + long},
    ]
    for item in items if key == "image" else [{"content": [{"image": long}]}]:
        with pytest.raises(InputError) as caught:
            preparer(as_input(item))
        assert len(str(caught.value)) < 400


def test_a_pdf_in_memory_is_its_only_page(preparer: Preparer) -> None:
    """As bytes or as a `data:` URI; of several pages none can be chosen."""
    page = Image.new("RGB", (300, 400), "red")
    page.save(one := io.BytesIO(), "PDF")
    page.save(two := io.BytesIO(), "PDF", save_all=True, append_images=[page])
    uri = "data:application/pdf;base64," + base64.b64encode(one.getvalue()).decode()
    for value in (one.getvalue(), one, uri):
        (visual,) = preparer(as_input({"image": value})).visuals
        assert visual.frames[0, 50, 50].tolist() == [254, 0, 0]
    with pytest.raises(InputError, match="has 2 pages"):
        preparer(as_input({"image": two}))
