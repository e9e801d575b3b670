"""Everything around the graphs, with the fake backend: order, batches, streams, forms of input, NaN."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lame_runtime import BackendError, Encoder, Input, InputError
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.contract import Preparer
from PIL import Image


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def encoder(preparer: Preparer, backend: FakeBackend) -> Encoder:
    return Encoder(preparer, backend)


def mixed(count: int) -> list[object]:
    """Texts of many lengths and pictures of several grids."""
    rng = np.random.default_rng(0)
    items: list[object] = []
    for number in range(count):
        if number % 3:
            items.append("word " * int(rng.integers(1, 40)) + str(number))
        else:
            width, height = (int(x) for x in rng.integers(30, 150, 2))
            items.append({"image": Image.new("RGB", (width, height), (number, 0, 0)), "text": str(number)})
    return items


def test_rows_come_back_in_input_order(encoder: Encoder) -> None:
    """Whatever the batches were."""
    items = mixed(40)
    together = encoder.encode(items, batch_size=7)  # type: ignore[arg-type]
    alone = np.concatenate([encoder.encode(item) for item in items])  # type: ignore[arg-type]
    assert together.shape == (40, 16)
    assert together.dtype == np.float32
    assert np.allclose(together, alone, atol=1e-6)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_sorting_saves_padding_and_changes_nothing(encoder: Encoder, backend: FakeBackend) -> None:
    """Fewer padded tokens, the same vectors."""
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
    """A str is a text; a path, a PIL picture and a dict say the same in three ways."""
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
    """The contract's query role has one, its document role has none."""
    assert not np.allclose(encoder.encode_query("seven"), encoder.encode("seven"))
    assert np.array_equal(encoder.encode_document("seven"), encoder.encode("seven"))


def test_no_inputs_give_no_rows(encoder: Encoder) -> None:
    """With the right width."""
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
    """Which one, and why."""
    with pytest.raises(InputError, match=f"input 1: .*{message}"):
        encoder.encode(["fine", item])  # type: ignore[list-item]


def test_a_batch_size_below_one_is_refused(encoder: Encoder) -> None:
    """Rather than looping for ever."""
    with pytest.raises(InputError, match="use 1 to"):
        encoder.encode(["a"], batch_size=0)


def test_nan_never_leaves_the_runtime(preparer: Preparer) -> None:
    """Not even unnormalised."""
    poisoned = Encoder(preparer, FakeBackend(poison=True))
    with pytest.raises(BackendError, match="not finite"):
        poisoned.encode("seven", normalize_embeddings=False)


def test_feature_indices_point_at_the_right_picture(preparer: Preparer) -> None:
    """Pictures of two grids in mixed order: each row's indices count through its own picture's features."""
    sizes = [(56, 56), (112, 56), (56, 56)]
    items = [preparer(Input(image=Image.new("RGB", size, (50 * i, 0, 0)))) for i, size in enumerate(sizes)]
    batch = assemble(items, preparer.contract)
    features = np.concatenate([np.zeros((1, 1)), *[np.repeat(g.pixel_patches[:, ::4, :1].reshape(-1, 1), 1, axis=1) for g in batch.groups]])
    for row in range(3):
        index = batch.feature_index[row][batch.feature_index[row] > 0]
        assert len(set(features[index, 0])) == 1
        assert index.tolist() == list(range(index[0], index[0] + len(index)))
    assert len({features[batch.feature_index[row].max(), 0] for row in range(3)}) == 3


def test_every_input_is_planned_once(preparer: Preparer) -> None:
    """A plan is a partition."""
    items = [preparer(Input("word " * n)) for n in (5, 1, 9, 3, 7)]
    plan = plan_batches(items, 2)
    assert sorted(i for batch in plan for i in batch) == list(range(5))
    assert plan[0][0] == 2


def test_the_public_surface_fits_on_a_line() -> None:
    """What `from lame_runtime import …` offers; the rest is reached by module."""
    import lame_runtime

    assert lame_runtime.__all__ == ["BackendError", "BundleError", "Encoder", "Input", "InputError", "LameError"]
    assert all(getattr(lame_runtime, name).__name__ == name for name in lame_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Encodr'"):
        _ = lame_runtime.Encodr  # type: ignore[attr-defined]


@pytest.mark.parametrize("item", [None, 5, b"bytes", [5], [{"text": 0}], [{"text": "a", "image": 3}], [Input(text=5)]])  # type: ignore[arg-type]
def test_what_is_no_input_is_refused_by_type(item: object, encoder: Encoder) -> None:
    """An `InputError`, whatever Python would have said."""
    with pytest.raises(InputError):
        encoder.encode(item)  # type: ignore[arg-type]


def test_truncation_keeps_the_instruction_and_some_of_the_text(encoder: Encoder) -> None:
    """An instruction that leaves no room is refused: two texts must not become one vector."""
    limit = encoder.preparer.contract.tokens.max_length
    with pytest.raises(InputError, match="shorter instruction"):
        encoder.encode({"instruction": "word " * limit, "text": "x"}, truncate=True)
    long = "word " * limit
    one, other = (encoder.preparer(Input(f"{start} {long}", instruction="Find it."), truncate=True).ids for start in ("one", "two"))
    assert len(one) == len(other)
    assert one.tolist() != other.tolist()
