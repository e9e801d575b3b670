"""Tests that arguments count as users have them, and wrong ones are refused at the call."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import (
    EncodeOptions,
    Encoder,
    Input,
    InputError,
    LameError,
    LoadOptions,
    UsageError,
    arguments,
    options,
)
from lame_runtime.arguments import choice, folder_path, integer, name_list, number, switch
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.cli.benchmark import bench
from lame_runtime.contract import Preparer
from lame_runtime.contract.prompts import Video
from lame_runtime.contract.vectors import quantize, restore
from lame_runtime.inputs import as_input
from lame_runtime.integrations.mteb import LameModel
from lame_runtime.parity.verify import verify


@pytest.fixture
def encoder(preparer: Preparer) -> Encoder:
    return Encoder(preparer, FakeBackend())


class Hostile:
    """Raises an error of its own from every method that an argument may be asked for."""

    __hash__ = None  # type: ignore[assignment]

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), np.array(2)], ids=repr)
def test_whole_numbers_of_numpy_count(value: Any) -> None:
    """They become an `int`, so that nothing behind depends on their type."""
    assert type(integer("n", value, 1, 3)) is int
    assert type(EncodeOptions(batch_size=value, max_pixels=value).batch_size) is int
    assert LoadOptions(workers=value).workers == 2
    assert type(EncodeOptions(workers=value).workers) is int


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), Fraction(4, 2), Decimal(2)],
    ids=repr,
)
def test_real_numbers_of_every_kind_count(value: Any) -> None:
    """They become a `float`."""
    assert number("fps", value, 1e-3, 1e4) == 2.0
    assert type(EncodeOptions(fps=value).fps) is float


NO_NUMBERS = [
    True, np.True_, np.array(True), "2", b"2", None, [2], np.array([2]), 2.5, np.float64(2), 0, -1,
    10**400, float("nan"), 2 + 0j, np.datetime64("2020-01-01"), Hostile(),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_whole_number_in_range_is_refused(value: Any) -> None:
    """Bools are no numbers, and a message repeats at most 80 characters of a value."""
    with pytest.raises(UsageError, match="`n` is ") as caught:
        integer("n", value, 1, 3)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "value", [True, np.False_, "2", [2.0], 10**400, float("nan"), float("inf"), Decimal("sNaN"), 1j]
)
def test_what_is_no_real_number_in_range_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="`fps` is "):
        number("fps", value, 1e-3, 1e4)


def test_switches_are_bools_and_no_texts() -> None:
    """The text "false" would be true, and 1 may be a number that belongs elsewhere."""
    assert switch("truncate", np.True_) is True
    for value in ("false", 1, None, np.array([True]), []):
        with pytest.raises(UsageError, match=r"`truncate` is .*: use True or False"):
            switch("truncate", value)


def test_names_are_strings_from_a_list() -> None:
    """An array compares with every name at once, and a string is iterable."""
    assert choice("precision", "int8", ["float32", "int8"]) == "int8"
    for value in (np.array("int8"), ["int8"], None, Hostile(), "int9"):
        with pytest.raises(UsageError, match=r"`precision` is .*: use float32, int8"):
            choice("precision", value, ["float32", "int8"])
    assert name_list("graphs", ("fp32",)) == ["fp32"]
    assert name_list("graphs", []) is None
    for value in ("fp32", [1], {"fp32"}):
        with pytest.raises(UsageError, match="give a list of names"):
            name_list("graphs", value)


@pytest.mark.parametrize(
    "value", [None, b"x", "", 3, ["a"], "x" * 5000, "a\0b", "\ud800", Path("x" * 5000)], ids=ascii
)
def test_what_is_no_path_of_a_folder_is_refused(value: Any) -> None:
    """The messages stay short, and an empty path is not the working folder."""
    for call in (Encoder.load, LameModel, lambda folder: folder_path("bundle", folder)):
        with pytest.raises(UsageError) as caught:
            call(value)
        assert len(str(caught.value)) < 250
        assert str(caught.value).isprintable()


OPTIONS: dict[str, list[Any]] = {
    "batch_size": [0, True, "2", 10**400, None],
    "batch_tokens": [0, -5, "2", 1.5, True],
    "truncate_dim": [64.0, 0, 17, True, [4]],
    "max_pixels": [10**400, 1, float("nan"), "big"],
    "max_frames": [0, 2.5, np.array([4])],
    "fps": [0, float("nan"), "2", True],
    "max_input_pixels": [-1, b"x"],
    "precision": ["int4", None, np.array("int8")],
    "role": ["passage", ["query"], {}, 3, "r" * 5000, "\x1b[31m"],
    "instruction": [5, ["a"], b"a"],
    "prompt_name": ["passage", 5],
    "truncate": ["false", 1, None],
    "normalize_embeddings": ["no", 0],
    "sort": [[], "true"],
    "workers": [-1, 65, True, 1.0, "2", [2], float("nan"), 10**400],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_checked_at_the_call(name: str, encoder: Encoder) -> None:
    """`stream` refuses a wrong option before it is advanced, also without inputs."""
    assert set(OPTIONS) | {"prompt"} == set(EncodeOptions.__dataclass_fields__)
    for value in OPTIONS[name]:
        for inputs in (["seven"], []):
            with pytest.raises(UsageError) as caught:
                encoder.stream(inputs, **{name: value})  # type: ignore[misc]
            assert len(str(caught.value)) < 300
            assert str(caught.value).isprintable()
            with pytest.raises(UsageError):
                encoder.encode(inputs, **{name: value})  # type: ignore[misc]
    if name not in ("truncate_dim", "role", "prompt_name", "max_pixels", "max_input_pixels"):
        with pytest.raises(UsageError):
            LameModel(encoder, **{name: OPTIONS[name][0]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", ["auto"]),
        ("backend", "cuda"),
        ("graph", 3),
        ("threads", True),
        ("threads", 1.0),
        ("gpu", -1),
        ("gpu", 10**400),
        ("workers", "1"),
        ("check_hashes", "false"),
        ("map_weights", 1),
        ("trust_plans", "no"),
        ("engines", b"x"),
        ("engines", ""),
    ],
)
def test_every_option_of_loading_is_checked(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"`{name}`"):
        LoadOptions(**{name: value})


def test_a_wrong_option_is_noticed_only_because_it_is_checked(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the check, a batch of no inputs ends the stream as if all were embedded."""
    monkeypatch.setattr(options, "integer", lambda _, value, *__: value)
    assert list(encoder.stream(["seven"], batch_size=0)) == []


def test_threads_are_counted_by_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may use fewer cores than the machine has; more threads only wait."""
    monkeypatch.setattr(options.os, "sched_getaffinity", lambda _: {3}, raising=False)
    monkeypatch.setattr(options.os, "cpu_count", lambda: 64)
    assert LoadOptions(threads=1).threads == 1
    with pytest.raises(UsageError, match="`threads` is 2: use 1 to 1, or leave it out"):
        LoadOptions(threads=2)
    # systems without the call count the machine's cores
    monkeypatch.delattr(options.os, "sched_getaffinity")
    assert LoadOptions(threads=2).threads == 2


@pytest.mark.parametrize(
    "vectors",
    [
        None, "abc", [[1.0], [1.0, 2.0]], np.zeros((1, 2, 3)), np.array([[True, False]]),
        [[np.nan, 1.0]], [[1e300, 1.0]], 3.0, [["1", "2"]], [[10**400, 1]], np.array([[1j]]),
    ],
    ids=repr,
)  # fmt: skip
def test_similarity_takes_finite_numbers_only(vectors: Any, encoder: Encoder) -> None:
    """NaN compares as false with everything, so it would be ranked without a word."""
    with pytest.raises(UsageError, match="`embeddings2`"):
        encoder.similarity(np.ones(2), vectors)


def test_quantization_refuses_what_it_would_misread() -> None:
    """An unknown precision was uint8, and vectors of another type were restored as they are."""
    vectors = np.ones((2, 8), dtype=np.float32)
    calls: list[Callable[[], Any]] = [
        lambda: quantize(vectors, "int4", 1.0),  # type: ignore[arg-type]
        lambda: quantize(vectors, "int8", 0.0),
        lambda: quantize(vectors, "int8", float("nan")),
        lambda: quantize(vectors[0], "binary", 1.0),
        lambda: restore(vectors, "int8", 8),
        lambda: restore(quantize(vectors, "ubinary", 1.0), "ubinary", 9),
        lambda: restore(quantize(vectors, "ubinary", 1.0), "binary", 8),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()


def test_single_inputs_that_iterate_are_single_inputs(encoder: Encoder) -> None:
    """Bytes are no list of numbers, and an array of numbers is no list of rows."""
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    for item in (b"bytes", bytearray(b"x"), memoryview(b"x"), np.array("a"), picture, object()):
        try:
            vectors = encoder.encode(item)  # type: ignore[arg-type]
        except InputError as error:
            assert " int " not in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert len(vectors) == 1
    assert len(encoder.encode(np.array(["seven", "eight"]))) == 2  # type: ignore[arg-type]
    assert len(encoder.encode(name for name in ("a", "b"))) == 2


def test_inputs_that_are_none_are_refused_at_the_call(encoder: Encoder) -> None:
    """`stream` refuses them before it is advanced."""
    for item in (None, 3, object(), {"txt": "a"}):
        with pytest.raises(InputError):
            encoder.stream(item)  # type: ignore[arg-type]


def test_preparers_and_encoders_refuse_what_they_are_not_made_of(preparer: Preparer) -> None:
    for made in (lambda: Encoder(preparer, None), lambda: Encoder(None, FakeBackend())):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="is a NoneType"):
            made()
    with pytest.raises(UsageError, match="`backend`"):
        Encoder(preparer, FakeBackend()).with_backend("cpu")  # type: ignore[arg-type]
    for item in ("text", Input(text=3), Input(content=("a",), instruction=b"x")):  # type: ignore[arg-type]
        with pytest.raises(InputError):
            preparer(item)  # type: ignore[arg-type]


def test_checks_of_a_bundle_refuse_wrong_arguments(tmp_path: Path) -> None:
    """`verify("b", "fp32")` would verify the graphs f, p, 3 and 2."""
    for call in (verify, bench):
        with pytest.raises(UsageError, match="`graphs`"):
            call(tmp_path, "fp32")  # type: ignore[operator]
        with pytest.raises(LameError):
            call(None)  # type: ignore[operator]
    with pytest.raises(UsageError, match="`rounds`"):
        bench(tmp_path, rounds=10**9)


def test_the_largest_numbers_do_not_overflow(preparer: Preparer) -> None:
    """Every limit that is accepted can be used."""
    most = arguments.MAX_PIXELS
    limits = preparer.with_budget(max_pixels=most, max_frames=most, fps=1e4, max_input_pixels=most)
    assert len(limits(Input(text="seven")).ids) == len(preparer(Input(text="seven")).ids)


class Cell:
    """An array as other libraries make them: it converts to a number whatever its shape is."""

    def __init__(self, value: float, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape = value, shape

    def __index__(self) -> int:
        return int(self.value)

    def item(self) -> float:
        """Returns the number."""
        return self.value


@pytest.mark.parametrize(
    "value", [Cell(2, (1,)), Cell(2, (1, 1)), np.ma.masked_array(2, True), np.ma.masked]
)
def test_an_array_with_a_dimension_is_no_number(value: object) -> None:
    """Nor is a masked number, for options and for inputs."""
    for call in (integer, number):
        with pytest.raises(UsageError, match="`x` is "):
            call("x", value, 1)
    with pytest.raises(InputError, match="`fps` must be a number"):
        as_input({"video": ["a.png"], "fps": value})


@pytest.mark.parametrize("value", [Cell(2), np.ma.masked_array(2, False), np.array(2)])
def test_an_array_without_a_dimension_is_a_number(value: object) -> None:
    """Options and inputs take the same ones."""
    assert integer("x", value, 1) == number("x", value, 1) == 2
    (video,) = as_input({"video": ["a.png"], "fps": value}).content
    assert isinstance(video, Video)
    assert video.fps == EncodeOptions(fps=value).fps == 2.0  # type: ignore[arg-type]
