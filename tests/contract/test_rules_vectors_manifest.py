"""contract.json is read strictly, vectors are finished correctly, a manifest shows every change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lame_runtime.contract import Contract
from lame_runtime.contract.vectors import finish, quantize, restore
from lame_runtime.errors import BackendError, BundleError, UsageError


def test_a_contract_survives_its_json(contract: Contract) -> None:
    """The contract that is read is the one that was written, and writes the same bytes again."""
    text = contract.to_json()
    assert Contract.from_json(text) == contract
    assert Contract.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("contract_version",), 99),
        (("dim",), "16"),
        (("tokens", "pad"), None),
        (("images", "mean"), [1.0, 2.0]),
        (("images", "surprise"), 1),
        (("prompt", "roles"), {"query": 3}),
    ],
)
def test_a_contract_with_a_wrong_field_is_refused(
    path: tuple[str, ...], value: object, contract: Contract
) -> None:
    """An unknown version, a wrong type, a missing or an extra field is a BundleError."""
    raw = json.loads(contract.to_json())
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(BundleError):
        Contract.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000, "9" * 5000])
def test_a_contract_that_is_no_object_is_refused(text: str) -> None:
    """Truncated, foreign or hostile JSON is a BundleError."""
    with pytest.raises(BundleError):
        Contract.from_json(text)


def test_a_truncated_vector_is_its_prefix_at_unit_length() -> None:
    """Matryoshka: the first values are scaled to unit length."""
    rows = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    cut = finish(rows, truncate_dim=4)
    assert np.allclose(
        cut, rows[:, :4] / np.linalg.norm(rows[:, :4], axis=1, keepdims=True), atol=1e-6
    )
    assert np.array_equal(finish(rows, truncate_dim=4, normalize=False), rows[:, :4])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_never_leaves(bad: float) -> None:
    """It is an error whether the vectors are normalized or not."""
    rows = np.ones((2, 4), dtype=np.float32)
    rows[1, 2] = bad
    for normalize in (True, False):
        with pytest.raises(BackendError, match="not finite"):
            finish(rows, normalize=normalize)


def test_a_zero_vector_and_a_wrong_width_are_refused() -> None:
    """The first is the graph's fault, the second the caller's."""
    with pytest.raises(BackendError, match="all-zero"):
        finish(np.zeros((1, 4), dtype=np.float32))
    for width in (0, 5):
        with pytest.raises(UsageError, match="use 1 to 4"):
            finish(np.ones((1, 4), dtype=np.float32), truncate_dim=width)


def test_fewer_bits_are_those_of_sentence_transformers() -> None:
    """Bits equal theirs; 8 bits rank as the vectors, and values beyond the range are clipped."""
    from sentence_transformers.util.quantization import quantize_embeddings

    rng = np.random.default_rng(0)
    vectors = finish(rng.standard_normal((50, 60)).astype(np.float32))
    for precision in ("binary", "ubinary"):
        ours = quantize(vectors, precision, 1.0)
        assert np.array_equal(ours, quantize_embeddings(vectors, precision))
        signs = restore(ours, precision, 60)
        assert np.array_equal(signs, np.where(vectors > 0, 1, -1))
    largest = float(np.abs(vectors).max())
    expected = vectors @ vectors.T
    for precision in ("int8", "uint8"):
        ours = quantize(vectors, precision, largest)
        assert ours.dtype == precision
        back = restore(ours, precision, 60)
        assert np.abs(back @ back.T * (largest / 127) ** 2 - expected).max() < 0.01
        assert (
            np.abs(restore(quantize(vectors, precision, largest / 2), precision, 60)).max() == 127
        )
    assert np.array_equal(
        quantize(vectors, "uint8", 1.0), quantize(vectors, "int8", 1.0).astype(np.int16) + 128
    )
    assert quantize(vectors, "float32", 1.0) is vectors
