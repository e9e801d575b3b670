"""Tests of `Encoder` with a fake backend: row order, batching, streams, input forms and NaN."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lame_runtime import BackendError, Encoder, Input, InputError, UsageError
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.batching import plan_batches
from lame_runtime.contract import Preparer
from lame_runtime.contract.batch import assemble
from PIL import Image


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def encoder(preparer: Preparer, backend: FakeBackend) -> Encoder:
    return Encoder(preparer, backend)


def mixed(count: int) -> list[object]:
    """Returns texts of many lengths and pictures of several patch grids."""
    rng = np.random.default_rng(0)
    items: list[object] = []
    for number in range(count):
        if number % 3:
            items.append("word " * int(rng.integers(1, 40)) + str(number))
        else:
            width, height = (int(x) for x in rng.integers(30, 150, 2))
            items.append(
                {"image": Image.new("RGB", (width, height), (number, 0, 0)), "text": str(number)}
            )
    return items


def test_rows_come_back_in_input_order(encoder: Encoder) -> None:
    """Row i belongs to input i, however the inputs were batched."""
    items = mixed(40)
    together = encoder.encode(items, batch_size=7)  # type: ignore[arg-type]
    alone = np.concatenate([encoder.encode(item) for item in items])  # type: ignore[arg-type]
    assert together.shape == (40, 16)
    assert together.dtype == np.float32
    assert np.allclose(together, alone, atol=1e-6)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_sorting_saves_padding_and_changes_nothing(encoder: Encoder, backend: FakeBackend) -> None:
    """Sorting by length pads fewer tokens and gives the same vectors."""
    items = mixed(60)
    ours = encoder.encode(items, batch_size=6)  # type: ignore[arg-type]
    padded, backend.lengths = sum(backend.lengths), []
    assert np.allclose(encoder.encode(items, batch_size=6, sort=False), ours, atol=1e-6)  # type: ignore[arg-type]
    assert padded < 0.75 * sum(backend.lengths)


def test_a_generator_is_read_in_windows(encoder: Encoder) -> None:
    """A stream that does not fit in memory is never read ahead by more than 16 batches."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"text {read}"

    stream = encoder.stream(endless(), batch_size=2)
    first = [next(stream) for _ in range(40)]
    assert read == 64
    assert np.allclose(first[33], encoder.encode("text 34")[0], atol=1e-6)


def test_every_accepted_form_of_an_input(encoder: Encoder, tmp_path: Path) -> None:
    """A str is a text; a path, a PIL picture and a dict give the same picture."""
    picture = Image.new("RGB", (40, 40), (1, 2, 3))
    picture.save(tmp_path / "a.png")
    forms = [
        tmp_path / "a.png",
        picture,
        {"image": str(tmp_path / "a.png")},
        {"image": (tmp_path / "a.png").read_bytes()},
        Input(image=picture),
    ]
    vectors = encoder.encode(forms)  # type: ignore[arg-type]
    assert np.allclose(vectors, vectors[0])
    assert np.array_equal(encoder.encode("seven"), encoder.encode([{"text": "seven"}]))


def test_roles_add_their_instruction(encoder: Encoder) -> None:
    """The contract has an instruction for queries and none for documents."""
    assert not np.allclose(encoder.encode_query("seven"), encoder.encode("seven"))
    assert np.array_equal(encoder.encode_document("seven"), encoder.encode("seven"))


def test_no_inputs_give_no_rows(encoder: Encoder) -> None:
    """An empty list gives an array with no rows and `dim` columns."""
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.encode([], truncate_dim=4).shape == (0, 4)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (3, "int is not an input"),
        ({"txt": "a"}, r"unknown keys \['txt'\]"),
        ({"text": 3}, "must be strings"),
        ({"image": 3}, "must be a path"),
        ("", "empty"),
        ({"image": "nowhere.png"}, "nowhere.png: no such file"),
    ],
)
def test_a_bad_input_is_named_by_its_place(item: object, message: str, encoder: Encoder) -> None:
    """The message gives the index of the input and the reason."""
    with pytest.raises(InputError, match=f"input 1: .*{message}"):
        encoder.encode(["fine", item])  # type: ignore[list-item]


def test_a_batch_size_below_one_is_refused(encoder: Encoder) -> None:
    """`batch_size=0` raises an error instead of looping forever."""
    with pytest.raises(UsageError, match="use 1 to"):
        encoder.encode(["a"], batch_size=0)


def test_nan_never_leaves_the_runtime(preparer: Preparer) -> None:
    """NaN raises an error even if the vectors are not normalized."""
    poisoned = Encoder(preparer, FakeBackend(poison=True))
    with pytest.raises(BackendError, match="not finite"):
        poisoned.encode("seven", normalize_embeddings=False)


def test_feature_indices_point_at_the_right_picture(preparer: Preparer) -> None:
    """Feature indices refer to the right picture if two patch grids occur in mixed order."""
    sizes = [(56, 56), (112, 56), (56, 56)]
    items = [
        preparer(Input(image=Image.new("RGB", size, (50 * i, 0, 0))))
        for i, size in enumerate(sizes)
    ]
    batch = assemble(items, preparer.contract)
    features = np.concatenate(
        [
            np.zeros((1, 1)),
            *[group.pixel_patches()[:, ::4, :1].reshape(-1, 1) for group in batch.groups],
        ]
    )
    for row in range(3):
        index = batch.feature_index[row][batch.feature_index[row] > 0]
        assert len(set(features[index, 0])) == 1
        assert index.tolist() == list(range(index[0], index[0] + len(index)))
    assert len({features[batch.feature_index[row].max(), 0] for row in range(3)}) == 3


def test_every_input_is_planned_once(preparer: Preparer) -> None:
    """The batches of a plan contain every input exactly once."""
    items = [preparer(Input("word " * n)) for n in (5, 1, 9, 3, 7)]
    plan = plan_batches(items, 2)
    assert sorted(i for batch in plan for i in batch) == list(range(5))
    assert plan[0][0] == 2


@pytest.mark.parametrize("sort", [True, False])
def test_a_batch_has_a_limited_number_of_tokens(sort: bool, preparer: Preparer) -> None:
    """Padding counts, since it takes memory like any token; an input that is longer runs alone."""
    items = [preparer(Input("word " * n)) for n in (5, 40, 9, 3, 7, 30, 1, 2)]
    lengths = [len(item.ids) for item in items]
    limit = lengths[5]
    plan = plan_batches(items, 4, sort=sort, max_tokens=limit)
    assert sorted(row for rows in plan for row in rows) == list(range(8))
    for rows in plan:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= limit
    assert [1] in plan
    assert max(len(rows) for rows in plan) > 1
    # the control has no limit
    unlimited = plan_batches(items, 4, sort=sort)
    assert any(len(rows) * max(lengths[row] for row in rows) > limit for rows in unlimited)


def test_a_batch_has_a_limited_number_of_patches(preparer: Preparer) -> None:
    """Pictures end a batch of few tokens; one with more patches than the limit runs alone."""
    sizes = (56, 56, 112, 56, 280)
    items = [preparer(Input(image=Image.new("RGB", (size, 56)))) for size in sizes]
    patches = [item.visuals[0].n_patches for item in items]
    limit = patches[0] + patches[2]
    plan = plan_batches(items, 9, max_patches=limit)
    assert sorted(row for rows in plan for row in rows) == list(range(5))
    assert all(len(rows) == 1 or sum(patches[row] for row in rows) <= limit for rows in plan)
    assert [4] in plan
    assert max(map(len, plan)) > 1
    # the control has no limit
    assert plan_batches(items, 9) == [[4, 2, 0, 1, 3]]


def test_batch_tokens_limits_the_tokens_of_a_run(preparer: Preparer) -> None:
    """More and shorter runs, the same vectors; the limit of the memory holds beside it."""
    backend = FakeBackend()
    encoder = Encoder(preparer, backend)
    texts = ["word " * number for number in range(1, 30)]
    expected = encoder.encode(texts)
    runs = len(backend.lengths)
    assert np.array_equal(encoder.encode(texts, batch_tokens=100), expected)
    assert len(backend.lengths) - runs > 5 * runs
    with pytest.raises(UsageError, match="`batch_tokens` is 0"):
        encoder.encode(texts, batch_tokens=0)


@pytest.mark.parametrize(
    "item", [None, 5, b"bytes", [5], [{"text": 0}], [{"text": "a", "image": 3}], [Input(text=5)]]
)  # type: ignore[arg-type]
def test_what_is_no_input_is_refused_by_type(item: object, encoder: Encoder) -> None:
    """Anything that is not an input raises `InputError` with its type in the message."""
    with pytest.raises(InputError):
        encoder.encode(item)  # type: ignore[arg-type]


def test_truncation_keeps_the_instruction_and_some_of_the_text(encoder: Encoder) -> None:
    """An instruction that leaves no room for text is refused.

    Otherwise different texts would get the same vector.
    """
    limit = encoder.preparer.contract.tokens.max_length
    with pytest.raises(InputError, match="shorter instruction"):
        encoder.encode({"instruction": "word " * limit, "text": "x"}, truncate=True)
    long = "word " * limit
    one, other = (
        encoder.preparer(Input(f"{start} {long}", instruction="Find it."), truncate=True).ids
        for start in ("one", "two")
    )
    assert len(one) == len(other)
    assert one.tolist() != other.tolist()


def test_an_option_that_does_not_exist_is_refused_by_name(encoder: Encoder) -> None:
    """A mistyped keyword raises an error that names it."""
    with pytest.raises(TypeError, match="batchsize"):
        encoder.encode_query(["seven"], batchsize=4)  # type: ignore[call-arg]


def test_a_stream_refuses_its_options_before_it_is_advanced(encoder: Encoder) -> None:
    """`stream` validates its options when it is called.

    A plain generator would fail only when the first vector is requested.
    """
    with pytest.raises(UsageError, match="`precision` is 'int4'"):
        encoder.stream(["seven"], precision="int4")  # type: ignore[typeddict-item]


def test_the_words_of_sentence_transformers_mean_the_same(encoder: Encoder) -> None:
    """`prompt_name` is another name of `role`, and `prompt` of `instruction`.

    Values that contradict each other are refused.
    """
    as_query = encoder.encode_query(["seven"])
    assert np.array_equal(encoder.encode(["seven"], prompt_name="query"), as_query)
    assert np.array_equal(encoder.encode_query(["seven"], prompt_name="query"), as_query)
    instructed = encoder.encode([{"text": "seven", "instruction": "Find it."}])
    assert np.array_equal(encoder.encode(["seven"], prompt="Find it."), instructed)
    assert np.array_equal(encoder.encode(["seven"], instruction="Find it."), instructed)
    assert np.array_equal(encoder.encode_query(["seven"], prompt=""), encoder.encode(["seven"]))
    with pytest.raises(UsageError, match="two names of one option"):
        encoder.encode(["seven"], role="query", prompt_name="document")
    assert encoder.get_embedding_dimension() == encoder.dim == 16


def test_an_instruction_of_an_input_comes_before_that_of_the_call(encoder: Encoder) -> None:
    """The instruction of the call applies only to inputs without one."""
    own = {"text": "seven", "instruction": "Mine."}
    assert np.array_equal(encoder.encode([own], instruction="Yours."), encoder.encode([own]))


def test_similarity_is_the_cosine_of_every_pair(encoder: Encoder) -> None:
    """Vectors need not be normalized and may have 8 bits; one vector counts as a list of one."""
    a, b = np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[0, 2], [5, 0]], dtype=np.int8)
    expected = np.array([[0, 1], [np.sqrt(0.5), np.sqrt(0.5)]])
    assert np.allclose(encoder.similarity(a, b), expected)
    assert encoder.similarity(a[0], b).shape == (1, 2)
    assert encoder.similarity(a, b).dtype == np.float32
    with pytest.raises(UsageError, match="vectors of 2 values and `embeddings2` of 3"):
        encoder.similarity(a, np.ones(3))


def test_an_encoder_cannot_be_changed(encoder: Encoder) -> None:
    """An encoder is immutable, because threads share it."""
    with pytest.raises(AttributeError):
        encoder.graph = "fp16"  # type: ignore[misc]


def test_a_subclass_loads_itself(exported: Path) -> None:
    """`load` returns an instance of the class that it is called on."""

    class Subclass(Encoder):
        pass

    with Subclass.load(exported) as encoder:
        assert type(encoder) is Subclass


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_picture_that_is_open_in_text_mode_is_refused(
    encoding: str, encoder: Encoder, tmp_path: Path
) -> None:
    """The error of a caller's own iterator is the caller's, and a text file gives its lines."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    for file in (
        (tmp_path / "a.png").open(encoding=encoding),
        io.TextIOWrapper(io.BytesIO((tmp_path / "a.png").read_bytes()), encoding),
        (tmp_path / "new.txt").open("w", encoding=encoding),
    ):
        with file, pytest.raises(InputError, match=r'binary mode \("rb"\)'):
            list(encoder.stream(file))
        with pytest.raises(InputError, match="binary mode"):
            encoder.encode(file)

    def broken() -> Iterator[str]:
        yield "a"
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "of the caller")

    with pytest.raises(UnicodeDecodeError, match="of the caller"):
        encoder.encode(broken())
    (tmp_path / "a.txt").write_text("one\ntwo\n", encoding=encoding)
    with (tmp_path / "a.txt").open(encoding=encoding) as file:
        assert encoder.encode(file).shape[0] == 2
